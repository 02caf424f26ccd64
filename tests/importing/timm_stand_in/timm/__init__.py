"""Stands in for timm in `.venv-nnunet`: nnU-Net imports it for transformers that no test here uses, and it would bring CUDA."""
