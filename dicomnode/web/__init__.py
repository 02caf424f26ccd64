"""The pages of a node: what came, what became of it, why, and what an operator can do about it.

Rules for this package:
1. No SQL and no decisions of its own: the ledger's frozen records are shown, the ledger's verbs are called.
2. Every answer passes the guard (`guard.py`); every view of a study is audited.
3. No patient data in an address or in a log line: UIDs only.
"""
