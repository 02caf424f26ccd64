"""Networks of others into bundles: nnU-Net result folders and ONNX files.

Needs the `train` extra (torch) for nnU-Net; nothing that runs imports it.
"""
