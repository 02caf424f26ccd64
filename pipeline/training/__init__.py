"""Trains the bundled networks on synthetic heads: synthesis, network, losses, train, validate, export.

Needs the `train` extra. Nothing outside this package imports it.
"""
