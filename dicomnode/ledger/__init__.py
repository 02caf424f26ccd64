"""The ledger: what arrived, what is to be done with it, what became of it.

All SQL of the node is in this package.
"""
