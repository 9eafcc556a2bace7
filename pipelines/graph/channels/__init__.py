"""Following channels through an ONNX graph: an algebra of axes, and one rule an operator."""
