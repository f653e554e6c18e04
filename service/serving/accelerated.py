"""Networks on a GPU, for batches that are worth the way there. It imports torch: an API process does so only where it
has a GPU to serve with."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.checkpoints import Arrays
from service.network import Committee, MultiLayerPerceptron, Network, load_arrays
from service.serving.inference import Floats
from service.spec import TrainingSpec

CHUNK = 20_000  # rows at once


class AcceleratedNetwork:
    """Answers as `inference.NumpyNetwork` does, in float32 by torch. Any thread may ask."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays, device: str = "cuda") -> None:
        """`arrays` are a checkpoint's. Raises torch.OutOfMemoryError."""
        self.spec = spec
        self.parameter_count = self.cost = spec.parameter_count
        self._device = torch.device(device)
        network: Network = MultiLayerPerceptron(spec) if spec.committee is None else Committee(spec)
        load_arrays(network, arrays)
        self._network = network.eval().to(self._device)

    @torch.inference_mode()
    def logits(self, inputs: NDArray[Any]) -> Floats:
        """(n, outputs) float32 of (n, inputs) as they are stored, uint8 or float."""
        parts = [
            self._network(torch.tensor(inputs[start : start + CHUNK], device=self._device)).cpu()
            for start in range(0, max(1, len(inputs)), CHUNK)
        ]
        found: Floats = torch.cat(parts).numpy().astype(np.float32, copy=False)
        return found


def has_gpu() -> bool:
    """Whether torch finds one."""
    return torch.cuda.is_available()
