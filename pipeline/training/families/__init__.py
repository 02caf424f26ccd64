"""What is trained: one file a family, with its tasks, its texts and its export."""
