"""What is measured of an image's quality, and the grades that follow; docs/quality-gates.md has the thresholds' reasons."""
