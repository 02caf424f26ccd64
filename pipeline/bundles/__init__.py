"""Model bundles: a manifest read strictly, the files that it names, and what a network needs."""
