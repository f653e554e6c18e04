"""The weights as a step changes them, and the optimiser's state; each member of a crew has its rows of both."""

import torch
from torch import Tensor
from torch.nn import Parameter

from service import spec as specs
from service.network import MultiLayerPerceptron, to_numpy
from service.spec import TrainingSpec
from worker import optimizers
from worker.crew import ALONE, Crew
from worker.optimizers import Arrays


class Descent:
    """One optimiser a member of the crew, over its rows of every parameter. What an optimiser does to a weight
    depends on that weight alone, but for Muon's steps, which are of whole matrices: those, one member takes."""

    def __init__(self, spec: TrainingSpec, network: MultiLayerPerceptron, crew: Crew) -> None:
        """In a crew of more than one the parameters have their gradients already, and keep them and their memory."""
        self._spec = spec.optimizer
        self._crew = ALONE if isinstance(spec.optimizer, specs.Muon) else crew
        parameters = list(network.parameters())
        self._shares = [self._share(parameters, member) for member in range(self._crew.size)]
        self._weights = [[each for each in share if each.ndim > 1] for share in self._shares]
        self.optimizers = [optimizers.make(spec.optimizer, share) for share in self._shares]

    def _share(self, parameters: list[Parameter], member: int) -> list[Parameter]:
        if self._crew.size == 1:
            return parameters
        shares = []
        for parameter in parameters:
            rows = self._crew.share(member, len(parameter))
            share = Parameter(parameter.detach()[rows])
            assert parameter.grad is not None
            share.grad = parameter.grad[rows]
            shares.append(share)
        return shares

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients together, a scalar."""
        squares = self._crew.each(lambda member: optimizers.squared_norm(self._shares[member]))
        return torch.stack(squares).sum().sqrt()

    def clip(self, norm: float, largest: float) -> None:
        """See `optimizers.clip`."""
        if norm > largest:
            self._crew.each(lambda member: optimizers.clip(self._shares[member], norm, largest))

    def step(self, number: int, rate: float, regularization: specs.Regularization) -> None:
        """Follow the gradients, at that learning rate, with L2's gradient added and L1's proximal step after it.
        The number of the step counts from 1."""
        corrected = rate * optimizers.undone_correction(self._spec, number)

        def follow(member: int) -> None:
            weights, optimizer = self._weights[member], self.optimizers[member]
            optimizers.set_learning_rate(optimizer, corrected)
            if regularization.l2:
                optimizers.add_l2(weights, regularization.l2)
            optimizer.step()
            if regularization.l1:
                optimizers.soft_threshold(weights, rate * regularization.l1)

        self._crew.each(follow)

    def state_arrays(self) -> Arrays:
        """A copy of the optimisers' state, `optimizer.{i}.{key}` for parameter i in group order: the same however
        many members there are."""
        states = [optimizer.state_dict()["state"] for optimizer in self.optimizers]
        return {
            f"optimizer.{index}.{key}": to_numpy(_joined([state[index][key] for state in states]))
            for index, first in states[0].items()
            for key, value in first.items()
            if isinstance(value, Tensor)  # SGD without momentum keeps a None
        }

    def load_state_arrays(self, arrays: Arrays) -> None:
        """Take over what `state_arrays` gave; other names are passed over."""
        for member, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, array in arrays.items():
                owner, _, rest = name.partition(".")
                if owner == "optimizer":
                    index, _, key = rest.partition(".")
                    rows = self._crew.share(member, len(array)) if array.ndim else ...
                    state.setdefault(int(index), {})[key] = torch.tensor(array[rows])
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )


def _joined(parts: list[Tensor]) -> Tensor:
    """Rows one after the other; of a count that all have, one."""
    return torch.cat(parts) if parts[0].ndim else parts[0]
