"""The last gate: every object is read back from its bytes and compared with the source's bytes."""
