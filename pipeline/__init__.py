"""Volumes in, lesions and measurements out: knows no network, no ledger, no DICOM header; never imports dicomnode."""
