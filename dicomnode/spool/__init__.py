"""The spool: every received and every finished object as one file.

Files are written so that a power cut cannot take them back.
"""
