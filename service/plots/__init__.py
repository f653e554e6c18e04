"""Pictures of runs and data: pure functions from plain numbers to a Picture."""

from service.plots.classification import Bin, calibration, confusion
from service.plots.picture import Picture
from service.plots.regression import CURVES, Curve, fitted, scattered
from service.plots.series import Axis, Point, accuracy, loss
from service.plots.sweeps import Trial, differing, is_numeric, overlaid, swept
from service.plots.tiles import MAX_TILES, Mistakes, augmented, misclassified, samples, weights

__all__ = [
    "CURVES",
    "MAX_TILES",
    "Axis",
    "Bin",
    "Curve",
    "Mistakes",
    "Picture",
    "Point",
    "Trial",
    "accuracy",
    "augmented",
    "calibration",
    "confusion",
    "differing",
    "fitted",
    "is_numeric",
    "loss",
    "misclassified",
    "overlaid",
    "samples",
    "scattered",
    "swept",
    "weights",
]
