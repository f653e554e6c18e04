"""A trained network that is asked about the images that another learns from."""

import copy

import torch
from torch import Tensor
from torch.nn import functional

from service.evaluation import outputs
from service.network import Network
from service.spec import TrainingSpec
from worker.device import product_type

ROWS = 10_000  # normalised at once, in float32


class Teacher:
    """Makes what is to be learnt of labels and a network's answers, see `service.spec.Distillation`."""

    def __init__(self, spec: TrainingSpec, network: Network, device: torch.device) -> None:
        """`spec` is that of the network that learns, in whose precision this one answers."""
        assert spec.distillation is not None
        self._distillation = spec.distillation
        self._smoothing = spec.regularization.label_smoothing
        self._whole = network.to(device)  # normalises in float32
        self._dtype = product_type(spec, device)
        self._answering = self._whole
        if self._dtype != torch.float32:
            self._answering = copy.deepcopy(self._whole).to(self._dtype)

    @torch.no_grad()
    def targets(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (n, classes) float32 that add up to 1: (1 - share) of the smoothed labels (n,) int64 and
        `share` of softmax(logits / temperature) of `pixels` (n, inputs), uint8 or float on the 0..255 scale."""
        logits = torch.cat([self._logits(part) for part in torch.split(pixels, ROWS)])
        answers = torch.softmax(logits / self._distillation.temperature, 1)
        classes = logits.shape[1]
        wanted = functional.one_hot(labels, classes).float()
        wanted.mul_(1 - self._smoothing).add_(self._smoothing / classes)
        return torch.lerp(wanted, answers, self._distillation.share)

    def _logits(self, pixels: Tensor) -> Tensor:
        return outputs(self._answering, self._whole.normalize(pixels).to(self._dtype))
