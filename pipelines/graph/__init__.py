"""The ONNX graph: what is in it, and passes over it, each returning what it changed."""
