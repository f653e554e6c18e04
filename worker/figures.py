"""What a training process tells of itself at each heartbeat."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pynvml
import torch


def _nothing() -> Mapping[str, float]:
    return {}


@dataclass
class Figures:
    """Counted by the thread that trains, read by the one that beats. `gpu` looks at the GPU, where there is one."""

    gpu: Callable[[], Mapping[str, float]] = _nothing
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
    """Looks at that GPU as a whole, whoever uses it, through NVIDIA's management library, which costs its work nothing.
    To be made in the process that looks."""
    if device.type != "cuda":
        return _nothing
    pynvml.nvmlInit()
    # by its id: CUDA_VISIBLE_DEVICES counts them in another order
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

    def look() -> Mapping[str, float]:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "gpu_memory_used_bytes": memory.used,
            "gpu_memory_total_bytes": memory.total,
            "gpu_utilization": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        }

    return look
