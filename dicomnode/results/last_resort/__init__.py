"""The report that no header can stop.

It is made from the ledger's row and raw bytes alone, with no library and no code of the other reports.
"""
