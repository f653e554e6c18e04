"""Where a network trains: device, threads, precision, determinism, and the data that lies there."""

import ctypes
import os
import platform
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from service.data.datasets import Dataset
from service.errors import Conflict
from service.network import Network
from service.spec import TrainingSpec

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 32 * 2**20  # bytes: the most that mallopt(3) takes
SHARED_OPERATIONS = 100_000_000  # of a step; some 2 ms of one core


def resolve(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of that name; auto is a GPU if there is one. Raises Conflict (`device_unavailable`) when
    a GPU is asked for and there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise Conflict(
            "this worker sees no CUDA GPU: set device to auto or cpu, or start a worker that has one",
            code="device_unavailable",
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe(device: torch.device) -> str:
    """A name for people, such as `NVIDIA H200` or `CPU (x86_64, 2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'' if threads == 1 else 's'})"


def set_threads(count: int) -> None:
    """Threads of one operation on the CPU, of torch and of numpy, at least 1. Sums are split by thread, so that the
    last bits of a result depend on the number."""
    torch.set_num_threads(count)
    threadpool_limits(limits=count, user_api="blas")


def threads_for(spec: TrainingSpec, available: int, *, together: int = 1) -> int:
    """Threads that a job, or so many together, are faster with: one where a step's products are so small that
    handing them out costs more than it gains. A function of the spec alone on one machine, as every attempt must
    take the same number. The members of a committee step one after another, each as it would alone."""
    parameters = spec.networks[0].parameter_count * together
    products = 6 * spec.batching.batch * parameters  # operations of forward and backward
    return available if products >= SHARED_OPERATIONS else 1


def warm_up(device: torch.device) -> None:
    """Pay here, at a worker's start, what a process's first step costs: some seconds of torch's late
    imports, and on a GPU the context and the library handles."""
    _keep_memory()
    with deterministic(enabled=True):
        weight = torch.nn.Parameter(torch.ones(8, 8, device=device))
        optimizer = torch.optim.Adam([weight], fused=True)
        (weight @ weight).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _keep_memory() -> None:
    """Let freed memory stay with the process. glibc gives large pieces back to the kernel, and pages that come
    anew, and zeroed, at every step cost as much as deforming the images that they hold."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # macOS has none
        set_option(_MMAP_THRESHOLD, LARGEST_KEPT)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def deterministic(*, enabled: bool) -> Iterator[None]:
    """Refuse algorithms whose result may differ between two runs on one device."""
    # cuBLAS repeats its sums only with a fixed workspace; it reads this at its first use in the process
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we read none
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def product_type(spec: TrainingSpec, device: torch.device) -> torch.dtype:
    """In what matrix products run, float32 or bfloat16. `auto` depends on the spec's task and the machine
    alone, so that every attempt at a job finds the same there. A regression is float32: its curve is to be
    fitted more finely than the three digits of bfloat16, by networks too small to gain from it."""
    if spec.precision == "auto":
        is_rounded = spec.task_name == "classification" and multiplies_bfloat16(device)
    else:
        is_rounded = spec.precision == "bfloat16"
    return torch.bfloat16 if is_rounded else torch.float32


def precision_name(spec: TrainingSpec, device: torch.device) -> str:
    """`float32` or `bfloat16`: what the spec's precision comes to there."""
    return str(product_type(spec, device)).removeprefix("torch.")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16: a GPU from compute capability 8 on, a
    processor with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch knows, and has no public name for it
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001


def autocast(spec: TrainingSpec, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which autograd's forward runs, to be entered again at each step: float32 master weights,
    products as `product_type` says."""
    if product_type(spec, device) == torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@dataclass(frozen=True)
class Examples:
    """Inputs (n, inputs) uint8 or float32, and targets (n,) int64 or (n, outputs) float32."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, count: int) -> "Examples":
        return Examples(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True)
class Resident:
    """A dataset on a device, as it is stored. A worker may keep it for its next job on the same data."""

    dataset: Dataset
    device: torch.device
    train: Examples
    validation: Examples
    test: Examples
    _evaluated: dict[Hashable, dict[str, Examples]] = field(default_factory=dict, repr=False, compare=False)

    def evaluated_by(self, network: Network, train_examples: int) -> dict[str, Examples]:
        """What figures are taken of, inputs as the network's first layer sees them: the first
        `train_examples` of `train`, and `validation` and `test` whole; parts without examples are left
        out. Kept, since turning bytes into floats costs a small network more than its products do."""
        normalization = network.input
        key = (train_examples, *normalization.mean.tolist(), *normalization.std.tolist())
        if key not in self._evaluated:
            parts = {
                "train": self.train.first(train_examples),
                "validation": self.validation,
                "test": self.test,
            }
            self._evaluated.clear()
            self._evaluated[key] = {
                name: Examples(network.normalize(part.inputs), part.targets)
                for name, part in parts.items()
                if len(part)
            }
        return self._evaluated[key]


def place(dataset: Dataset, device: torch.device) -> Resident:
    """Lay the dataset on the device; on the CPU its memory is shared, not copied. The tensors are only
    ever read."""
    return Resident(
        dataset,
        device,
        _examples(dataset.train_inputs, dataset.train_targets, device),
        _examples(dataset.validation_inputs, dataset.validation_targets, device),
        _examples(dataset.test_inputs, dataset.test_targets, device),
    )


def _examples(inputs: NDArray[Any], targets: NDArray[Any], device: torch.device) -> Examples:
    return Examples(_tensor(inputs).to(device), _tensor(targets).to(device))


def _tensor(array: NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    try:
        return from_dlpack(array)  # from_numpy warns of read-only memory
    except (BufferError, RuntimeError):  # DLPack before version 1 has no flag for it
        return torch.from_numpy(array.copy())
