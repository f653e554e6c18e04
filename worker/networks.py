"""The networks of a run: that which a step changes, and that which is evaluated, stored and served."""

from collections.abc import Iterator

import torch
from torch import Tensor

from service.checkpoints import Arrays, Snapshot
from service.network import MultiLayerPerceptron, arrays_of, load_arrays
from service.normalization import fold, plain
from service.spec import TrainingSpec
from worker.averaging import Average
from worker.crew import ALONE, Crew

TRAINED, AVERAGE = "trained.", "average."  # prefixes in a snapshot's state


class Networks:
    """`trained` is the network that a step changes, `average` follows it where the spec asks for that, and
    `evaluated` gives the network whose figures count: one of the two, or, where they are normalised, the plain
    one that it folds into.

    A snapshot's weights are those of `evaluated`; its state holds the other networks that the run needs to go
    on (`trained.{name}`, `average.{name}`)."""

    def __init__(self, spec: TrainingSpec, trained: MultiLayerPerceptron, crew: Crew = ALONE) -> None:
        self.trained = trained
        self.average = None if spec.averaging is None else Average(spec.averaging, trained, crew)
        averaged = spec.averaging is not None and spec.averaging.evaluate == "average"
        self._chosen = self.average.network if self.average is not None and averaged else trained
        self._plain = self._chosen if spec.network.normalization == "none" else plain(trained)
        self._ended = False

    def follow(self, step: int) -> None:
        """Take the weights after a step into the average, where there is one."""
        if self.average is not None:
            self.average.update(step)

    def evaluated(self) -> MultiLayerPerceptron:
        """The network to evaluate and store, as it stands; the next call may change it."""
        if self._plain is not self._chosen and not self._ended:
            fold(self._chosen, into=self._plain)
        return self._plain

    def end_with(self, arrays: Arrays) -> None:
        """Make these the evaluated weights from now on. Training is over."""
        load_arrays(self._plain, arrays)
        self._ended = True

    def finite(self) -> Tensor:
        """Scalar bool: whether all of them are."""
        networks = dict.fromkeys((self.trained, self._chosen, self.evaluated()))
        tensors = [tensor for network in networks for tensor in network.state_dict().values()]
        return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()

    def arrays(self) -> Arrays:
        """A copy of the evaluated weights, named as in `checkpoints.shapes`."""
        return arrays_of(self.evaluated())

    def state(self) -> Arrays:
        """A copy of what else there is."""
        return {
            f"{prefix}{name}": array
            for prefix, network in self._others()
            for name, array in arrays_of(network).items()
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `arrays` and `state` gave."""
        load_arrays(self._plain, snapshot.weights)
        self._ended = snapshot.progress["outcome"] is not None
        for prefix, network in self._others():
            found = snapshot.state.items()
            load_arrays(
                network, {name.removeprefix(prefix): a for name, a in found if name.startswith(prefix)}
            )

    def _others(self) -> Iterator[tuple[str, MultiLayerPerceptron]]:
        """The networks of which `arrays` is not a copy."""
        if self._plain is not self.trained:
            yield TRAINED, self.trained
        if self.average is not None and self._plain is not self.average.network:
            yield AVERAGE, self.average.network
