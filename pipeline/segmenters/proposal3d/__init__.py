"""Proposed regions, then a 3D network in each."""
