"""NumPy evaluation of ONNX graphs: in float64 for proofs, in float32 for inference from compressed weights."""

from pipelines.executor.run import evaluate

__all__ = ["evaluate"]
