"""Results: DICOM SEG, reports and preview, and the proof that they are right before they leave."""
