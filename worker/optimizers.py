"""Optimisers, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter, functional

from service import spec as specs
from service.spec import Plan, TrainingSpec

RATE_RATIO = "rate_ratio"  # of a group of parameters: its learning rate over the run's

Arrays = Mapping[str, NDArray[Any]]


def learning_rate_at(spec: TrainingSpec, step: int) -> float:
    """Learning rate of step t = 1..T of the run, with base rate r and W steps of warm-up.

    Warm-up, t <= W: r t / W. After it:

    - constant: r.
    - step: r factor^floor(f / every_epochs), with f the epoch boundaries since the warm-up ended.
    - exponential: max(floor, r factor^f), never above r; it changes at epoch boundaries only. With F the
      last epoch's f, factor = final_fraction^(1 / F) where that is given.
    - cosine: r (q + (1 - q) (1 + cos(pi p)) / 2), q = final_fraction, p = (t - 1 - W) / (T - 1 - W), so
      that the last step has q r (Loshchilov and Hutter 2017, eq. 5).
    - one_cycle: with k = t - 1 and the peak at m = rise_fraction T - 1, half a cosine from
      r / initial_divisor up to r at m, and another down to r / (initial_divisor final_divisor) at T - 1
      (Smith 2018; torch's OneCycleLR).
    """
    schedule, plan, base = spec.schedule, spec.plan, spec.optimizer.learning_rate
    if isinstance(schedule, specs.OneCycle):
        return _one_cycle(schedule, base, step, plan.steps)
    warmup = schedule.warmup_steps
    if step <= warmup:
        return base * step / warmup
    if isinstance(schedule, specs.Cosine):
        progress = (step - 1 - warmup) / max(1, plan.steps - 1 - warmup)
        return _cosine(base, base * schedule.final_fraction, progress)
    falls = _boundaries(plan, step) - _boundaries(plan, warmup + 1)
    if isinstance(schedule, specs.StepDecay):
        return float(base * schedule.factor ** (falls // schedule.every_epochs))
    if isinstance(schedule, specs.Exponential):
        return float(min(base, max(schedule.floor, base * _factor(schedule, spec) ** falls)))
    return base


def _factor(schedule: specs.Exponential, spec: TrainingSpec) -> float:
    if schedule.final_fraction is None:
        return 0.99 if schedule.factor is None else schedule.factor
    falls = _boundaries(spec.plan, spec.plan.steps) - _boundaries(spec.plan, schedule.warmup_steps + 1)
    return float(schedule.final_fraction ** (1 / max(1, falls)))


def _boundaries(plan: Plan, step: int) -> int:
    """Epochs that were complete before the step."""
    return (step - 1) // plan.steps_per_epoch


def _one_cycle(schedule: specs.OneCycle, base: float, step: int, steps: int) -> float:
    first = base / schedule.initial_divisor
    peak = max(0.0, schedule.rise_fraction * steps - 1)
    done = step - 1
    if done < peak:
        return _cosine(first, base, done / peak)
    fall = steps - 1 - peak
    return _cosine(base, first / schedule.final_divisor, (done - peak) / fall if fall else 0.0)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def make(optimizer: specs.Optimizer, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
    """Torch's own optimiser. AdamW's decay spares the biases, the parameters of one dimension. L1 and L2
    are apart: `add_l2`, `soft_threshold`."""
    every = list(parameters)
    device = every[0].device
    # one kernel for all of a step's arithmetic; float32 parameters on these devices have one
    kernels: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {"foreach": True}
    rate = optimizer.learning_rate
    if isinstance(optimizer, specs.Muon):
        return MuonWithAdamW(optimizer, every, kernels)
    if isinstance(optimizer, specs.SGD):
        return torch.optim.SGD(
            every, lr=rate, momentum=optimizer.momentum, nesterov=optimizer.nesterov, **kernels
        )
    moments: dict[str, Any] = {
        "lr": rate,
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.epsilon,
    }
    if isinstance(optimizer, specs.AdamW):
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in every if parameter.ndim > 1]},
            {"params": [parameter for parameter in every if parameter.ndim == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, weight_decay=optimizer.weight_decay, **moments, **kernels)
    amsgrad = isinstance(optimizer, specs.AMSGrad)
    return torch.optim.Adam(every, amsgrad=amsgrad, **moments, **kernels)


class MuonWithAdamW(torch.optim.Optimizer):
    """Torch's Muon for the hidden layers' weights and torch's AdamW for the rest, as Muon's authors advise
    (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), as one: the groups and the
    state are those of both."""

    def __init__(self, spec: specs.Muon, parameters: list[Parameter], kernels: Mapping[str, Any]) -> None:
        """`parameters` lead from the first layer to the last; the last layer's weights are the last of more
        than one dimension."""
        *hidden, last = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim == 1]
        self._muon: torch.optim.Optimizer = torch.optim.Muon(
            hidden,
            lr=spec.learning_rate,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
        )
        ratio = {RATE_RATIO: spec.adam_learning_rate / spec.learning_rate}
        groups = [{"params": [last], **ratio}, {"params": vectors, "weight_decay": 0.0, **ratio}]
        self._adamw = torch.optim.AdamW(
            groups, lr=spec.adam_learning_rate, weight_decay=spec.weight_decay, **kernels
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give both the groups and the state that this one, as torch's optimisers do, saves and loads."""
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = (
            self.param_groups[:count],
            self.param_groups[count:],
        )
        self._muon.state = self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None
        self._muon.step()
        self._adamw.step()


def undone_correction(optimizer: specs.Optimizer, step: int) -> float:
    """By what the learning rate of step t = 1, 2, ... is multiplied to take away torch's correction of the
    two means: (1 - beta1^t) / sqrt(1 - beta2^t) for AMSGrad without it, else 1. Exact but for epsilon, which
    is left multiplied by sqrt(1 - beta2^t)."""
    if not isinstance(optimizer, specs.AMSGrad) or optimizer.bias_correction:
        return 1.0
    return (1 - optimizer.beta1**step) / math.sqrt(1 - optimizer.beta2**step)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, in every group, times the group's own ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_RATIO, 1.0)


@torch.no_grad()
def clip(parameters: Iterable[Parameter], norm: float, largest: float) -> None:
    """Scale gradients whose Euclidean norm, all together, is `norm` down to `largest` where it is over that
    (Pascanu, Mikolov and Bengio 2013, algorithm 1)."""
    if norm > largest:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, largest / norm)


def squared_norm(parameters: Iterable[Parameter]) -> Tensor:
    """Sum of the squares of all gradients, a scalar. By products, since torch's norms take twice as long on a CPU
    (torch 2.15)."""
    gradients = [parameter.grad.view(-1) for parameter in parameters if parameter.grad is not None]
    return torch.stack([torch.dot(gradient, gradient) for gradient in gradients]).sum()


@torch.no_grad()
def add_l2(weights: Iterable[Parameter], l2: float) -> None:
    """Add the gradient of l2/2 sum w^2 to that of the loss."""
    for weight in weights:
        assert weight.grad is not None
        weight.grad.add_(weight, alpha=l2)


@torch.no_grad()
def soft_threshold(weights: Iterable[Parameter], threshold: float) -> None:
    """w <- sign(w) max(|w| - threshold, 0), the proximal step of threshold sum |w|: exact zeros (Parikh
    and Boyd 2014, section 6.5.2)."""
    for weight in weights:
        weight.copy_(functional.softshrink(weight, threshold))
