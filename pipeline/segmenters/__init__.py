"""One folder a family of networks: `spec.py` reads its table of the manifest, `segment.py` runs it."""
