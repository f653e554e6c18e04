"""The arithmetic of a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """How a run goes through its examples, however long it is. Steps count from 1; step 0 is the untrained
    network."""

    examples: int
    batch: int
    steps_per_pass: int
    steps_per_epoch: int

    @property
    def smallest_batch(self) -> int:
        """Examples of a pass's last batch."""
        return self.examples - (self.steps_per_pass - 1) * self.batch

    def epoch_of(self, step: int) -> float:
        """Epochs done after `step` steps (a fraction within one)."""
        return step / self.steps_per_epoch


@dataclass(frozen=True)
class Plan(Batching):
    """A run whose length is known."""

    steps: int

    @property
    def epochs(self) -> float:
        return self.epoch_of(self.steps)
