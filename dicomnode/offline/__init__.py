"""Work on files without a node: segment, evaluate, BIDS datasets."""
