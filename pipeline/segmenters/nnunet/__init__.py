"""Imported nnU-Nets, run by their own conventions."""
