"""The node as monitoring programs see it: figures, health, and an HTTP listener for them.

Everything comes from the ledger and the disk, whichever processes run, and holds no patient data.
"""
