"""The journal: received instances made safe by one append and one shared sync, and made files afterwards."""
