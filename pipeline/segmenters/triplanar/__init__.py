"""One 2D network a plane, and their majority."""
