"""The moving average of a network's weights."""

import copy

import torch
from torch import Tensor

from service.network import MultiLayerPerceptron
from service.spec import Averaging
from worker.crew import ALONE, Crew


def decay_at(averaging: Averaging, step: int) -> float:
    """Share of the average that step t = 1, 2, ... keeps: min(decay, (1 + t) / (10 + t)), the ramp of
    TensorFlow's tf.train.ExponentialMovingAverage with num_updates."""
    return min(averaging.decay, (1 + step) / (10 + step))


class Average:
    """A second network that follows the first. It begins as its copy.

    All that training changes takes part, so that what a normalisation has measured is averaged as the weights
    are that it was measured with (Cai et al. 2021, "Exponential Moving Average Normalization", eq. 4-6)."""

    def __init__(self, spec: Averaging, network: MultiLayerPerceptron, crew: Crew = ALONE) -> None:
        self._spec, self._crew = spec, crew
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False).eval()
        average, newest = _changing(self.network), _changing(network)
        self._shares = [
            (_share(average, crew, member), _share(newest, crew, member)) for member in range(crew.size)
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- d average + (1 - d) newest, after step t = 1, 2, ...; in one pass over memory."""
        taken = 1 - decay_at(self._spec, step)

        def update(member: int) -> None:
            average, newest = self._shares[member]
            torch._foreach_lerp_(average, newest, taken)

        self._crew.each(update)


def _changing(network: MultiLayerPerceptron) -> list[Tensor]:
    named = (*network.named_parameters(), *network.named_buffers())
    return [tensor for name, tensor in named if not name.startswith("input.")]


def _share(tensors: list[Tensor], crew: Crew, member: int) -> list[Tensor]:
    """The member's rows; of one alone the tensors themselves, wherever their memory is laid later."""
    if crew.size == 1:
        return tensors
    return [tensor.detach()[crew.share(member, len(tensor))] for tensor in tensors]
