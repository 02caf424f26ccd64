"""One measurement per file: value, unit, how it was obtained."""
