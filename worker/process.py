"""What a training process has."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch

from service.data import datasets
from service.running.lease import Heartbeat
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import datasets as uploads
from service.store.database import Database
from service.store.jobs import Job
from worker.device import Resident, place, resolve
from worker.figures import Figures
from worker.leaving import Leaving


def out_of_memory(error: Exception) -> bool:
    """Whether that is what it tells. torch's allocator on a CPU raises no error of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@dataclass
class Process:
    """Built after the fork, used for one job after another."""

    settings: Settings
    db: Database
    name: str
    device: torch.device
    threads: int
    heartbeat: Heartbeat
    leaving: Leaving  # set when the worker is told to stop
    ring: Callable[[Job], None]
    figures: Figures = field(default_factory=Figures)
    _resident: tuple[Hashable, Resident] | None = field(default=None, repr=False)

    def device_for(self, spec: TrainingSpec) -> torch.device:
        """Raises Conflict (`device_unavailable`) where the spec asks for a device that is not here."""
        if spec.device == "auto":
            return self.device
        return self.device if spec.device == self.device.type else resolve(spec.device)

    def data(self, spec: TrainingSpec) -> Resident:
        """The spec's dataset on the device that it trains on; the last one used stays there. Raises as `device_for`,
        `datasets.load` and `uploads.content` do."""
        device = self.device_for(spec)
        dataset = datasets.load(
            spec.dataset,
            cache_dir=self.settings.cache_dir,
            data_dir=self.settings.data_dir,
            uploads=[uploads.content(self.db, one.id) for one in spec.dataset.uploads],
        )
        key = (spec.dataset, dataset.sha256, device)
        if self._resident is None or self._resident[0] != key:
            self._resident = (key, place(dataset, device))
        return self._resident[1]
