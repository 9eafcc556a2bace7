"""The host's wing: specs, locks, images, engines. Never imports torch, onnx or the pipelines."""
