"""What a training process tells of itself. Of a GPU only what its library is asked: there is none here."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from worker import figures
from worker.figures import Figures


def test_steps_and_images_add_up() -> None:
    told = Figures()
    told.trained(3, 300.0)
    told.trained(1, 40.0)
    assert told.read() == {"steps": 4, "images": 340.0}


def test_a_cpu_has_no_gpu() -> None:
    assert figures.gpu(torch.device("cpu"))() == {}


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    memory = SimpleNamespace(used=3 * 2**30, total=80 * 2**30)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", unsupported)
    assert figures.looked(object()) == {
        "gpu_memory_used_bytes": 3 * 2**30,
        "gpu_memory_total_bytes": 80 * 2**30,
    }
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=25))
    assert figures.looked(object())["gpu_utilization"] == 0.25
