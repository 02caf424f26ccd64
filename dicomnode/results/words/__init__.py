"""What results say: codes, sentences, tables."""
