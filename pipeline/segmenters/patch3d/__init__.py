"""Patch-wise 3D networks."""
