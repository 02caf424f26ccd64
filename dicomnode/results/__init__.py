"""Results: DICOM SEG, structured reports, the preview, and the proof that they are right before they leave."""
