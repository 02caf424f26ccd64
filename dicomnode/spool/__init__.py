"""The spool: every received and every finished object as one file, written so that a power cut cannot take it back."""
