"""Segmentations: made of a result, and read back from an earlier one."""
