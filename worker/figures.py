"""What a training process tells of itself at each heartbeat."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pynvml
import torch

log = logging.getLogger(__name__)

_OF_GPU: Final[Mapping[str, Callable[[Any], float]]] = {  # by a handle of NVIDIA's management library
    "gpu_memory_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "gpu_memory_total_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
    "gpu_utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
}


def nothing() -> Mapping[str, float]:
    """What is told of a GPU where there is none."""
    return {}


@dataclass
class Figures:
    """Counted by the thread that trains, read by the one that beats. `gpu` looks at the GPU, where there is one."""

    gpu: Callable[[], Mapping[str, float]] = nothing
    steps: int = field(default=0, init=False)
    images: float = field(default=0.0, init=False)

    def trained(self, steps: int, images: float) -> None:
        """So many more."""
        self.steps += steps
        self.images += images

    def read(self) -> Mapping[str, float]:
        """Since the process began; of the GPU, as it is now."""
        return {"steps": self.steps, "images": self.images, **self.gpu()}


def gpu(device: torch.device) -> Callable[[], Mapping[str, float]]:
    """Looks at that GPU as a whole, whoever uses it, which costs its work nothing. To be made in the process that
    looks. What a GPU does not tell (a part of one has no use of its own) is left out, and costs no heartbeat."""
    if device.type != "cuda":
        return nothing
    try:
        pynvml.nvmlInit()
        # by its id: CUDA_VISIBLE_DEVICES counts them in another order
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError as error:
        log.warning("the GPU's memory and use are not told: %s", error)
        return nothing
    return lambda: looked(handle)


def looked(handle: Any) -> Mapping[str, float]:
    """What the GPU of that handle tells."""
    found = {}
    for name, ask in _OF_GPU.items():
        try:
            found[name] = ask(handle)
        except pynvml.NVMLError:
            continue
    return found
