"""Metrics against a truth, and whether two sets of answers are worth the same."""
