"""Everything that speaks DICOM or runs a service. Read `dicomnode/flow.py` first."""

__version__ = "0.5.0"
