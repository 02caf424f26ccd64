"""Holds `eva`."""
