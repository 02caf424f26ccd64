"""The tables of the configuration, one file for each subject. Others import them from `dicomnode.config`, which joins them."""
