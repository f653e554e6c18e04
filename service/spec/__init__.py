"""TrainingSpec: the one contract from HTTP to checkpoint.

Frozen and strict: an unknown field, a number given as text, NaN and infinity are refused, and a
mistake that spans two fields points at the field to change and says how. No torch here: the API
counts parameters and steps from the spec alone.
"""

from service.spec.augmentation import LIMITS, Augmentation, ClassLimits
from service.spec.averaging import Averaging
from service.spec.committee import Committee
from service.spec.dataset import DatasetSpec, Upload
from service.spec.distillation import Distillation
from service.spec.network import MAX_DEPTH, MAX_WIDTH, Activation, Initializer, NetworkSpec
from service.spec.optimizer import SGD, Adam, AdamW, AMSGrad, Moments, Muon, Optimizer
from service.spec.part import MAX_STEPS, Fraction, Part
from service.spec.plan import Batching, Plan
from service.spec.schedule import Constant, Cosine, Exponential, OneCycle, Schedule, StepDecay, Warmup
from service.spec.training import (
    Checkpoints,
    EarlyStopping,
    Evaluation,
    Monitor,
    Regularization,
    TrainingSpec,
    parse,
)

__all__ = [
    "LIMITS",
    "MAX_DEPTH",
    "MAX_STEPS",
    "MAX_WIDTH",
    "SGD",
    "AMSGrad",
    "Activation",
    "Adam",
    "AdamW",
    "Augmentation",
    "Averaging",
    "Batching",
    "Checkpoints",
    "ClassLimits",
    "Committee",
    "Constant",
    "Cosine",
    "DatasetSpec",
    "Distillation",
    "EarlyStopping",
    "Evaluation",
    "Exponential",
    "Fraction",
    "Initializer",
    "Moments",
    "Monitor",
    "Muon",
    "NetworkSpec",
    "OneCycle",
    "Optimizer",
    "Part",
    "Plan",
    "Regularization",
    "Schedule",
    "StepDecay",
    "TrainingSpec",
    "Upload",
    "Warmup",
    "parse",
]
