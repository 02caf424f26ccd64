"""What is measured of an image's quality, and the grades that follow.

Docs/quality-gates.md has the thresholds' reasons.
"""
