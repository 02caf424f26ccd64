"""DICOM series in, volumes out; two witnesses must agree on the geometry."""
