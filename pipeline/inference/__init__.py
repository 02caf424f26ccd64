"""ONNX sessions; tiles and blending."""
