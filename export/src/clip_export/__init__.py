"""Exports an open_clip image tower to ONNX and TorchScript in a Triton model repository."""
