"""The steps of the working side; `dicomnode/flow.py` has them in their order."""
