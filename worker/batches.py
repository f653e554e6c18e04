"""What each step learns from: a batch's inputs and targets."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from service.data.augment import Augmenter
from service.network import MultiLayerPerceptron
from service.seeds import derived_seed
from service.spec import TrainingSpec
from worker.crew import Crew
from worker.device import Examples, product_type
from worker.step import stays
from worker.teacher import Teacher

PACKED_ROWS = 10_000  # normalised at once, in float32


class Batches:
    """The normalised batch of each step, in the type of the step's products, and what is to be learnt of it: all
    examples, or a slice of the pass's permutation, deformed where the spec asks for it. The last batch of a pass may
    be smaller. What a step is given lasts until the next is asked for."""

    def __init__(
        self,
        spec: TrainingSpec,
        examples: Examples,
        network: MultiLayerPerceptron,
        crew: Crew,
        teacher: Teacher | None = None,
    ) -> None:
        self._spec, self._plan, self._crew, self._stays = spec, spec.plan, crew, stays(spec)
        self._examples, self._network = examples, network
        self._targets, self._teacher, self._outputs = examples.targets, teacher, spec.layer_widths[-1]
        self._pass = -1
        self._order = torch.empty(0)
        device = examples.inputs.device
        self._buffer = torch.empty(
            min(self._plan.batch, len(examples)),
            examples.inputs.shape[1],
            dtype=product_type(spec, device),
            device=device,
        )
        self._augmenter = None
        if spec.augmentation is not None:
            self._augmenter = Augmenter(spec.augmentation, examples.targets, seed=spec.seed, device=device)
        else:
            self._normalized = self._packed(examples.inputs)
            if teacher is not None:  # about images that stay as they are it is asked once
                self._targets = teacher.targets(examples.inputs, examples.targets)

    def _packed(self, inputs: Tensor) -> Tensor:
        """All inputs as steps take them: neither arithmetic nor a change of type is left to a step."""
        packed = torch.empty(inputs.shape, dtype=self._buffer.dtype, device=inputs.device)
        for part, rows in zip(
            *(torch.split(all_of, PACKED_ROWS) for all_of in (packed, inputs)), strict=True
        ):
            part.copy_(self._network.normalize(rows))
        return packed

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of step 1, 2, ..."""
        if self._stays:
            return self._normalized, self._targets
        number, position = divmod(step - 1, self._plan.steps_per_pass)
        if number != self._pass:
            self._pass, self._order = number, order(self._spec, number, self._buffer.device)
        rows = self._order[position * self._plan.batch : (position + 1) * self._plan.batch]
        inputs, targets = self._buffer[: len(rows)], self._targets.index_select(0, rows)
        batch = _Batch(rows, inputs, targets)
        if self._augmenter is None:
            self._crew.each(partial(self._gather, batch))
            return inputs, targets
        if self._teacher is not None:
            batch = replace(batch, learnt=targets.new_empty(len(rows), self._outputs, dtype=torch.float32))
        deformations = self._augmenter.deformations(rows, variant=number, amplitude=self._amplitude(step))
        self._crew.each(partial(self._deform, self._augmenter, batch, deformations))
        return inputs, targets if batch.learnt is None else batch.learnt

    def _gather(self, batch: "_Batch", member: int) -> None:
        part = self._crew.share(member, len(batch.rows))
        torch.index_select(self._normalized, 0, batch.rows[part], out=batch.inputs[part])

    def _deform(self, augmenter: Augmenter, batch: "_Batch", deformations: Tensor, member: int) -> None:
        part = self._crew.share(member, len(batch.rows))
        pixels = self._examples.inputs.index_select(0, batch.rows[part])
        deformed = augmenter.apply(pixels, deformations[part])
        if self._teacher is not None and batch.learnt is not None:
            batch.learnt[part] = self._teacher.targets(deformed, batch.targets[part])
        batch.inputs[part].copy_(self._network.input.in_place(deformed))

    def _amplitude(self, step: int) -> float:
        assert self._spec.augmentation is not None
        return self._spec.augmentation.factor((step - 1) / max(1, self._plan.steps - 1))


def order(spec: TrainingSpec, number: int, device: torch.device) -> Tensor:
    """(examples,) int64: how a pass goes through the training set; the seed and the pass's number decide."""
    # drawn on the CPU, so that every device sees the examples in the same order
    generator = torch.Generator().manual_seed(derived_seed(spec.seed, "order", number))
    return torch.randperm(spec.batching.examples, generator=generator).to(device)


@dataclass(frozen=True)
class _Batch:
    """What the members of a crew fill, each its part."""

    rows: Tensor
    """(n,) int64: places in the training set"""
    inputs: Tensor
    """(n, inputs): as the first layer takes them"""
    targets: Tensor
    """of the data"""
    learnt: Tensor | None = None
    """(n, outputs) float32: what a teacher makes of them"""
