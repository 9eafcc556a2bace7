"""Which torch, onnx, onnxruntime, opset and IR version fit together and with a converter, each with its reason."""
