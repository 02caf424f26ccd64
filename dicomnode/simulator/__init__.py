"""A scanner and an archive that are made up: for the demo and for tests, never part of the running node."""
