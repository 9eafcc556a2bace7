"""Keeping a sparse network's answers without training it again: correction, and which layers to leave dense."""

from pipelines.sparsity.reconstruct.correct import METHODS, PICTURED, CorrectedLayer, CorrectionReport, correct
from pipelines.sparsity.reconstruct.crops import calibration_images
from pipelines.sparsity.reconstruct.importance import activation_norms
from pipelines.sparsity.reconstruct.sensitivity import LayerSensitivity, Sensitivity, choose_dense

__all__ = [
    "METHODS",
    "PICTURED",
    "CorrectedLayer",
    "CorrectionReport",
    "LayerSensitivity",
    "Sensitivity",
    "activation_norms",
    "calibration_images",
    "choose_dense",
    "correct",
]
