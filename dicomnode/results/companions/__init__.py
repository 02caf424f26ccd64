"""Pictures, page and key objects next to SEG and SR."""
