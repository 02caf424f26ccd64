"""Back to the source grid, threshold, components."""
