"""Several networks of one architecture trained together: `Pack`, the loop of `worker.training` over a stack.

A member is a run like any other, whose weights are a row of the stack: its curve is that of `training.fit` alone, to
rounding, and a snapshot of it goes on there. It has its own figures and bookkeeping, and ends or diverges alone. In
mini-batches each member has an order of its own, and its rows are gathered for it.
"""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from service.data.datasets import Dataset
from service.network import ACTIVATIONS, MultiLayerPerceptron
from service.spec import TrainingSpec
from worker import optimizers
from worker.batches import PACKED_ROWS, order
from worker.crew import ALONE
from worker.device import Resident, deterministic, place, product_type
from worker.stack import Block, Rule, Stack, columns_of, rows_of
from worker.step import stays
from worker.training import (
    Diverged,
    Report,
    begin,
    end,
    evaluation_cadence,
    report_of,
)

EVALUATED_ROWS = {"cpu": 1000, "cuda": 20_000}
# Up to which packs of 16 were clearly faster than their members alone, and of 4 still: multiply-adds of a step's
# forward, and units of the widest layer.
SMALL = {torch.float32: 5_000_000, torch.bfloat16: 25_000_000}
NARROW = {torch.float32: 32, torch.bfloat16: 128}

# In what the members of a pack may differ.
OWN: Any = {
    "seed": True,
    "schedule": True,
    "max_runtime_seconds": True,
    "optimizer": {"learning_rate", "momentum", "nesterov", "beta1", "beta2", "epsilon", "weight_decay"},
    "regularization": {"l1", "l2", "label_smoothing"},
}


def kind(spec: TrainingSpec, device: torch.device) -> Hashable | None:
    """What the members of a pack have in common; None of a spec that trains alone.

    Alone is what draws for each example (dropout, deformations), what autograd does (normalised layers), what has
    products of its own in the optimiser (Muon), what has yet to measure its number of steps, what asks a teacher, a
    committee, and what is not faster together."""
    alone = (
        spec.regularization.dropout > 0
        or spec.augmentation is not None
        or spec.network.normalization != "none"
        or spec.optimizer.name == "muon"
        or spec.budget_seconds is not None
        or spec.committee is not None
        or spec.distillation is not None
    )
    return None if alone or not _pays(spec, device) else spec.model_dump_json(exclude=OWN)


def _pays(spec: TrainingSpec, device: torch.device) -> bool:
    """Whether together is faster, as it was measured: while a step's products are so small that what surrounds them
    counts, and where inputs are shared by layers too narrow to keep a processor busy alone."""
    products = product_type(spec, device)
    small = spec.batching.batch * spec.parameter_count <= SMALL[products]
    return small or (stays(spec) and max(spec.layer_widths[1:]) <= NARROW[products])


class Pack:
    """Iterate to train: each member's report of a step in turn, as `training.fit` would give it alone, to rounding;
    or, as its last, why it diverged."""

    def __init__(
        self,
        specs: Sequence[TrainingSpec],
        dataset: Dataset | Resident,
        *,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`specs` are of one `kind`; the rest as `training.fit` has it."""
        assert len({spec.model_dump_json(exclude=OWN) for spec in specs}) == 1
        self._data = dataset if isinstance(dataset, Resident) else place(dataset, device)
        assert self._data.device == device
        self._spec, self._specs, self._device, self._clock = specs[0], specs, device, clock
        self._members: list[_Member] = []
        self._left: set[int] = set()

    def leave(self, number: int) -> None:
        """Let the member of that place among the specs take no further part."""
        self._left.add(number)

    def __iter__(self) -> Iterator[tuple[int, Report | Diverged]]:
        with deterministic(enabled=self._spec.deterministic):
            self._members = [
                _Member(number, spec, self._data)
                for number, spec in enumerate(self._specs)
                if number not in self._left
            ]
            if not self._members:
                return
            batches = _Batches(self._spec, self._data, self._members[0].run.networks.trained)
            evaluation_due = evaluation_cadence(self._spec, self._clock)
            if self._spec.evaluation.initial:
                yield from self._told(last=False, figures=True)
            stack: Stack | None = None
            for step in range(1, self._spec.plan.steps + 1):
                if stack is None or self._left:
                    self._members = [one for one in self._members if one.number not in self._left]
                    self._left.clear()
                    if not self._members:
                        return
                    stack = _stacked(self._members)
                self._advance(step, stack, batches.at(step, self._members))
                last = step == self._spec.plan.steps
                yield from self._told(last=last, figures=evaluation_due(step) or last)

    def _advance(self, step: int, stack: Stack, blocks: Iterator[Block]) -> None:
        """Take the step with every member whose loss and gradient are finite."""
        for member in self._members:
            member.begin(step)
        losses, norms = stack.differentiate(blocks)
        for member, loss, norm in zip(self._members, losses, norms, strict=True):
            member.take(loss, norm)
        rules = [member.rule for member in self._members]
        rates = [member.run.learning_rate for member in self._members]
        moved = [member.diverged is None for member in self._members]
        stack.descend(rules, rates, norms, moved, step)
        for member in self._members:
            member.run.networks.follow(step)

    def _told(self, *, last: bool, figures: bool) -> Iterator[tuple[int, Report | Diverged]]:
        """Each member's report of the step, or why there is none."""
        found = self._figures() if figures else {}
        for member in self._members:
            try:
                report = member.report(found.get(member.number, {}), self._data, last=last)
            except Diverged as error:
                self.leave(member.number)
                yield member.number, error
            else:
                if report.outcome is not None:
                    self.leave(member.number)
                yield member.number, report

    def _figures(self) -> dict[int, dict[str, float]]:
        """The metrics of each member's present weights."""
        networks = [member.run.networks.evaluated() for member in self._members]
        parts = self._data.evaluated_by(networks[0], self._spec.evaluation.train_examples)
        found: list[dict[str, float]] = [{} for _ in networks]
        for part, examples in parts.items():
            scores = outputs(networks, examples.inputs)
            for name, values in _measured(scores, examples.targets, self._spec).items():
                for metrics, value in zip(found, values.tolist(), strict=True):
                    metrics[f"{part}_{name}"] = value
        return {member.number: metrics for member, metrics in zip(self._members, found, strict=True)}


@torch.no_grad()
def outputs(networks: Sequence[MultiLayerPerceptron], inputs: Tensor) -> Tensor:
    """(k, outputs, n) float32 of k networks of one spec, without dropout; inputs as `evaluation.outputs` has them."""
    spec = networks[0].spec
    activation = ACTIVATIONS[spec.network.activation]
    stacked = [
        torch.stack(one) for one in zip(*(list(network.parameters()) for network in networks), strict=True)
    ]
    layers = list(zip(stacked[::2], (bias.unsqueeze(2) for bias in stacked[1::2]), strict=True))
    found = torch.empty(len(networks), spec.layer_widths[-1], len(inputs), device=inputs.device)
    rows = EVALUATED_ROWS.get(inputs.device.type, EVALUATED_ROWS["cpu"])
    for part, chunk in zip(torch.split(inputs, rows), torch.split(found, rows, 2), strict=True):
        weight, bias = layers[0]
        values = torch.mm(weight.flatten(0, 1), part.t()).view(*weight.shape[:2], -1).add_(bias)
        for weight, bias in layers[1:]:
            values = torch.baddbmm(bias, weight, activation(values))
        chunk.copy_(values)
    return found


def _measured(scores: Tensor, targets: Tensor, spec: TrainingSpec) -> dict[str, Tensor]:
    """What `evaluation.evaluate` measures, (k,) each, of scores (k, outputs, n)."""
    if targets.is_floating_point():
        return {"loss": (scores - targets.t()).square_().mean((1, 2))}
    if spec.loss_name == "mse":
        wanted = functional.one_hot(targets, scores.shape[1]).t()
        loss = (scores - wanted).square_().mean((1, 2))
    else:
        each = functional.cross_entropy(scores, targets.expand(len(scores), -1), reduction="none")
        loss = each.mean(1)
    return {"loss": loss, "accuracy": (scores.argmax(1) == targets).sum(1).double() / len(targets)}


class _Member:
    """A run, and its place among the pack's specs."""

    def __init__(self, number: int, spec: TrainingSpec, data: Resident) -> None:
        self.number, self.spec = number, spec
        self.run, _ = begin(spec, data, None, ALONE)
        self.parameters = list(self.run.networks.trained.parameters())
        regularization = spec.regularization
        largest_norm = regularization.max_gradient_norm or math.inf
        self.rule = Rule(spec.optimizer, regularization.l1, regularization.l2, largest_norm)
        self.diverged: Diverged | None = None

    def begin(self, step: int) -> None:
        self.run.step, self.run.learning_rate = step, optimizers.learning_rate_at(self.spec, step)

    def take(self, loss: float, norm: float) -> None:
        """The loss and the gradient's norm of a step."""
        if math.isfinite(loss) and math.isfinite(norm):
            self.run.loss, self.run.gradient_norm = loss, norm
        else:
            self.diverged = self.run.diverged()

    def report(self, metrics: Mapping[str, float], data: Resident, *, last: bool) -> Report:
        """Of the step that was taken. Raises Diverged."""
        run, stop = self.run, False
        if self.diverged is not None:
            raise self.diverged
        if not all(map(math.isfinite, metrics.values())):
            raise run.diverged()
        if run.step == 0:
            run.loss = metrics["train_loss"]
        elif run.stopping is not None and metrics:
            stop = run.stopping.update(run.step, metrics, run.networks)
        if last or stop:
            metrics = end(run, metrics, "early_stopping" if stop else "completed")
        return report_of(run, data, metrics)


def _stacked(members: Sequence[_Member]) -> Stack:
    return Stack(
        members[0].spec,
        [member.parameters for member in members],
        [member.run.descent.optimizers[0] for member in members],
    )


class _Batches:
    """What the members take in each step, in blocks: the whole set, or each member's own rows of it."""

    def __init__(self, spec: TrainingSpec, data: Resident, network: MultiLayerPerceptron) -> None:
        """`network` normalises as every member's does."""
        self._spec, self._plan, self._examples = spec, spec.plan, data.train
        pixels = data.train.inputs
        self._inputs = torch.zeros(
            len(pixels),
            columns_of(pixels.shape[1]),
            dtype=product_type(spec, data.device),
            device=data.device,
        )
        self._inputs[:, pixels.shape[1]] = 1
        columns = self._inputs[:, : pixels.shape[1]]
        for part, rows in zip(
            torch.split(columns, PACKED_ROWS), torch.split(pixels, PACKED_ROWS), strict=True
        ):
            part.copy_(network.normalize(rows))
        self._members: list[_Member] = []
        self._staying: list[Block] = []
        self._pass = -1
        self._orders = self._buffer = torch.empty(0)

    def at(self, step: int, members: list["_Member"]) -> Iterator[Block]:
        """The blocks of step 1, 2, ..., each to be done with before the next is asked for."""
        if members is not self._members:
            self._members, self._staying, self._pass = members, [], -1
        if not stays(self._spec):
            return self._own(step)
        if not self._staying:
            self._staying = list(self._shared())
        return iter(self._staying)

    def _shared(self) -> Iterator[Block]:
        rows = rows_of(self._spec, len(self._members), self._inputs.device)
        smoothings = self._smoothings()
        if len(set(smoothings)) == 1:
            smoothings = smoothings[:1]
        parts = zip(torch.split(self._inputs, rows), torch.split(self._examples.targets, rows), strict=True)
        for inputs, targets in parts:
            wanted = self._wanted(
                targets.expand(len(smoothings), *targets.shape), smoothings, self._plan.batch
            )
            yield Block(inputs, wanted, self._plan.batch)

    def _own(self, step: int) -> Iterator[Block]:
        number, position = divmod(step - 1, self._plan.steps_per_pass)
        if number != self._pass:
            self._pass, self._orders = (
                number,
                torch.stack([order(m.spec, number, self._inputs.device) for m in self._members]),
            )
        chosen = self._orders[:, position * self._plan.batch : (position + 1) * self._plan.batch]
        for rows in torch.split(chosen, rows_of(self._spec, len(self._members), self._inputs.device), 1):
            flat = rows.flatten()
            inputs = self._gathered(flat).view(*rows.shape, -1)
            targets = self._examples.targets.index_select(0, flat).view(
                *rows.shape, *self._examples.targets.shape[1:]
            )
            wanted = self._wanted(targets, self._smoothings(), chosen.shape[1])
            yield Block(inputs, wanted, chosen.shape[1])

    def _gathered(self, rows: Tensor) -> Tensor:
        if len(self._buffer) < len(rows):
            self._buffer = self._inputs.new_empty(len(rows), self._inputs.shape[1])
        gathered = self._buffer[: len(rows)]
        torch.index_select(self._inputs, 0, rows, out=gathered)
        return gathered

    def _smoothings(self) -> list[float]:
        return [member.run.spec.regularization.label_smoothing for member in self._members]

    def _wanted(self, targets: Tensor, smoothings: Sequence[float], examples: int) -> Tensor:
        """Of targets (k, n) int64 or (k, n, outputs) float32."""
        if targets.is_floating_point():
            return targets.transpose(1, 2).contiguous()
        shape = (len(targets), self._spec.layer_widths[-1], targets.shape[1])
        labels = targets.unsqueeze(1)
        if self._spec.loss_name == "mse":
            return torch.zeros(shape, device=targets.device).scatter_(1, labels, 1.0)
        smoothing = torch.tensor(smoothings, device=targets.device).view(-1, 1, 1)
        spread = smoothing / shape[1]
        wanted = (spread / -examples).expand(shape).contiguous()
        return wanted.scatter_(1, labels, ((smoothing - 1 - spread) / examples).expand(labels.shape))
