"""The Brain Imaging Data Structure: reading raw datasets, writing raw and derivative ones (BIDS 1.10)."""
