"""The weights of several networks of one architecture in one piece: `Stack`, their step's forward, backward and
descent, as `worker.step` and torch's optimisers do them for one.

Where the networks share a batch X (n, inputs), the first layers of all k are one wide product [W_1; ..; W_k] X^T;
further layers are batched products. Whatever lies between the layers is (k, units, n), so that each network's part is
in one piece, its classes lie one a row as the loss is fastest with them, and nothing is turned. X has a column of ones,
which makes the first layer's biases a column of its weights, and columns of zeros up to a width that a processor's
tiles divide.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from service import spec as specs
from service.spec import TrainingSpec
from worker.activations import BY_HAND
from worker.device import product_type
from worker.optimizers import undone_correction

# Numbers of a layer that are computed before the next layer takes them: within a CPU's cache, and enough for a GPU.
BLOCK = {"cpu": 1 << 20, "cuda": 1 << 28}
TILE = 32  # that the columns of many inputs are a multiple of

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Block:
    """Rows of a step's batches."""

    inputs: Tensor
    """(n, columns) where the networks share it, else (k, n, columns): inputs, ones, zeros."""
    wanted: Tensor
    """(1 or k, outputs, n) float32: what mse compares with, or -1/examples of the smoothed labels."""
    examples: int
    """Of the whole batch."""


def columns_of(inputs: int) -> int:
    """Columns of inputs with the ones beside them."""
    return inputs + 1 if inputs < TILE else -(-(inputs + 1) // TILE) * TILE


def rows_of(spec: TrainingSpec, count: int, device: torch.device) -> int:
    """Rows of a block for so many networks."""
    return max(TILE, BLOCK.get(device.type, BLOCK["cpu"]) // (count * max(spec.layer_widths[1:])))


@dataclass(frozen=True)
class Rule:
    """How one network's optimiser steps, but for the learning rate."""

    optimizer: specs.Optimizer
    l1: float
    l2: float
    largest_norm: float


class Stack:
    """k networks' weights, gradients and optimisers' state, a row each. The networks' parameters, their `grad` and
    the state in their optimisers become views of it, so that each can be evaluated, stored and gone on with as if it
    were alone."""

    def __init__(
        self,
        spec: TrainingSpec,
        parameters: Sequence[Sequence[Parameter]],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        """`parameters` of each network, weights and biases of its first layer to its last, plain and of the widths
        that `spec` has; its optimiser as `optimizers.make` makes it, whose state is taken over."""
        self._spec, self._count = spec, len(parameters)
        rows = [[*layers[::2], *layers[1::2]] for layers in parameters]  # decay, L1 and L2 spare the biases
        self._shapes = [parameter.shape for parameter in rows[0]]
        self._values = _joined(rows)
        self._device = self._values.device
        self._gradient = torch.zeros_like(self._values)
        keys = _STATE[spec.optimizer.name]
        self._state = {key: self._taken_over(key, rows, optimizers) for key in keys}
        self._steps = torch.zeros(self._count, device=self._device)
        self._bind(rows, optimizers)
        layers = len(self._shapes) // 2
        self._decayed = sum(shape.numel() for shape in self._shapes[:layers])
        named = {"values": self._values, "gradient": self._gradient, **self._state}
        self._parts = {
            name: (of[:, : self._decayed].unbind(), of[:, self._decayed :].unbind())
            for name, of in named.items()
        }
        self._counts = self._steps.unbind()
        masters, gradients = self._views(self._values), self._views(self._gradient)
        self._weights, self._biases = masters[:layers], masters[layers:]
        self._weight_gradients, self._bias_gradients = gradients[:layers], gradients[layers:]

        self._dtype = product_type(spec, self._device)
        self._is_rounded = self._dtype != torch.float32
        _, first, self._inputs = self._weights[0].shape
        shape = (self._count, first, columns_of(self._inputs))
        self._first = torch.zeros(shape, dtype=self._dtype, device=self._device)
        self._first_gradient = torch.zeros(shape, device=self._device)
        self._further = [one.to(self._dtype) for one in self._weights[1:]]
        self._further_biases = [one.to(self._dtype).unsqueeze(2) for one in self._biases[1:]]
        self._activation = BY_HAND[spec.network.activation]
        self._buffers: dict[int, _Buffers] = {}
        self._products: dict[torch.Size, Tensor] = {}

    def _views(self, of: Tensor) -> list[Tensor]:
        """Of a row for each network, (k, *shape) for each parameter."""
        parts = torch.split(of, [shape.numel() for shape in self._shapes], 1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _taken_over(
        self, key: str, rows: Sequence[Sequence[Parameter]], optimizers: Sequence[torch.optim.Optimizer]
    ) -> Tensor:
        if key not in optimizers[0].state[rows[0][0]]:
            return torch.zeros_like(self._values)
        found = zip(rows, optimizers, strict=True)
        return _joined([[optimizer.state[one][key] for one in row] for row, optimizer in found])

    def _bind(self, rows: Sequence[Sequence[Parameter]], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        values, gradients = self._views(self._values), self._views(self._gradient)
        state = {key: self._views(of) for key, of in self._state.items()}
        for place, (row, optimizer) in enumerate(zip(rows, optimizers, strict=True)):
            counts = "step" in optimizer.state[row[0]]
            if counts:
                self._steps[place] = optimizer.state[row[0]]["step"]
            for index, parameter in enumerate(row):
                parameter.data, parameter.grad = values[index][place], gradients[index][place]
                optimizer.state[parameter] |= {key: of[index][place] for key, of in state.items()}
                if self._spec.optimizer.name != "sgd":
                    optimizer.state[parameter]["step"] = self._steps[place]

    @torch.no_grad()
    def differentiate(self, blocks: Iterable[Block]) -> tuple[list[float], list[float]]:
        """Set the gradients to those of each network's mean loss over its batch; returns the losses, as
        `step.Step.gradients` has them, and the gradients' Euclidean norms."""
        self._copy_weights()
        losses = torch.zeros(self._count, device=self._device)
        for index, block in enumerate(blocks):
            buffers = self._buffers_of(block.wanted.shape[2])
            self._forward(block.inputs, buffers)
            losses += self._loss(block, buffers)
            self._backward(block.inputs, buffers, first=index == 0)
        self._weight_gradients[0].copy_(self._first_gradient[:, :, : self._inputs])
        self._bias_gradients[0].copy_(self._first_gradient[:, :, self._inputs])
        norms = torch.linalg.vector_norm(self._gradient, dim=1)
        found_losses, found_norms = torch.stack((losses, norms)).tolist()
        return found_losses, found_norms

    def _copy_weights(self) -> None:
        self._first[:, :, : self._inputs].copy_(self._weights[0])
        self._first[:, :, self._inputs].copy_(self._biases[0])
        if self._further and self._is_rounded:
            biases = [one.squeeze(2) for one in self._further_biases]
            torch._foreach_copy_([*self._further, *biases], [*self._weights[1:], *self._biases[1:]])

    def _buffers_of(self, rows: int) -> "_Buffers":
        if rows not in self._buffers:
            self._buffers[rows] = _Buffers.of(
                self._count,
                rows,
                self._spec.layer_widths,
                self._dtype,
                self._device,
                apart=not self._activation.from_output,
            )
        return self._buffers[rows]

    def _forward(self, inputs: Tensor, buffers: "_Buffers") -> None:
        sums = [*buffers.kept, buffers.logits]
        if inputs.ndim == 2:
            torch.mm(self._first.flatten(0, 1), inputs.t(), out=sums[0].flatten(0, 1))
        else:
            torch.bmm(self._first, inputs.transpose(1, 2), out=sums[0])
        for index, (weight, bias) in enumerate(zip(self._further, self._further_biases, strict=True)):
            kept, following = buffers.kept[index], buffers.values[index]
            self._activation.forward(kept, kept if self._activation.from_output else following)
            torch.baddbmm(bias, weight, following, out=sums[index + 1])

    def _loss(self, block: Block, buffers: "_Buffers") -> Tensor:
        """(k,): the block's part of the losses; their gradient of the logits lies in `buffers.scores` then."""
        scores, logs = buffers.scores, buffers.logs
        scores.copy_(buffers.logits)
        if self._spec.loss_name == "mse":
            scores.sub_(block.wanted)
            mean = 1 / (scores.shape[1] * block.examples)
            loss = torch.mul(scores, scores, out=logs).sum((1, 2)).mul_(mean)
            scores.mul_(2 * mean)
            return loss
        torch.log_softmax(scores, 1, out=logs)
        loss = torch.mul(logs, block.wanted, out=scores).sum((1, 2))
        torch.exp(logs, out=scores).mul_(1 / block.examples).add_(block.wanted)
        return loss

    def _backward(self, inputs: Tensor, buffers: "_Buffers", *, first: bool) -> None:
        delta, exact = buffers.delta, buffers.scores
        if self._is_rounded:
            delta.copy_(exact)
        for index in reversed(range(len(self._further))):
            values, following = buffers.values[index], buffers.deltas[index]
            _accumulate(self._bias_gradients[index + 1], exact.sum(2), first=first)
            self._add_product(self._weight_gradients[index + 1], delta, values.transpose(1, 2), first=first)
            torch.bmm(self._further[index].transpose(1, 2), delta, out=following)
            self._activation.backward(following, buffers.kept[index], buffers.spare[index])
            delta = exact = following
        self._add_product(self._first_gradient, delta, inputs, first=first)

    def _add_product(self, gradient: Tensor, delta: Tensor, values: Tensor, *, first: bool) -> None:
        """Of (k, outputs, n), and (k, n, inputs) or, shared, (n, inputs)."""
        shape = gradient.shape
        if shape not in self._products:
            self._products[shape] = torch.empty(shape, dtype=self._dtype, device=self._device)
        product = self._products[shape]
        if values.ndim == 2:
            torch.mm(delta.flatten(0, 1), values, out=product.flatten(0, 1))
        else:
            torch.bmm(delta, values, out=product)
        _accumulate(gradient, product, first=first)

    @torch.no_grad()
    def descend(
        self,
        rules: Sequence[Rule],
        rates: Sequence[float],
        norms: Sequence[float],
        moved: Sequence[bool],
        step: int,
    ) -> None:
        """Take step t = 1, 2, ... with those networks that are to be moved, each by its rule, at its learning rate,
        along its gradient of that norm."""
        places = [place for place, is_moved in enumerate(moved) if is_moved]
        factors = [
            rule.largest_norm / norm if rule.largest_norm < norm else 1.0
            for rule, norm in zip(rules, norms, strict=True)
        ]
        if any(factor != 1 for factor in factors):
            self._gradient.mul_(self._column(factors))
        decays = [rule.l2 for rule in rules]
        if any(decays):
            cut = slice(None), slice(self._decayed)
            self._gradient[cut].addcmul_(self._values[cut], self._column(decays))
        self._steps.add_(1)
        groups: dict[tuple[specs.Optimizer, float], list[int]] = {}
        for place in places:
            groups.setdefault((rules[place].optimizer, rates[place]), []).append(place)
        for (optimizer, rate), together in groups.items():
            self._step(optimizer, rate * undone_correction(optimizer, step), together)
        for place in places:
            if rules[place].l1:
                weights = self._parts["values"][0][place]
                weights.copy_(functional.softshrink(weights, rates[place] * rules[place].l1))

    def _step(self, optimizer: specs.Optimizer, rate: float, places: Sequence[int]) -> None:
        """By torch's own kernels without what surrounds them in `optimizers.make`, which for a small network takes
        ten times as long as they do."""

        def rows(name: str, *parts: int) -> list[Tensor]:
            return [self._parts[name][part][place] for part in parts for place in places]

        if isinstance(optimizer, specs.SGD):
            _aten._fused_sgd_(
                rows("values", *BOTH),
                rows("gradient", *BOTH),
                rows("momentum_buffer", *BOTH) if optimizer.momentum else [],
                lr=rate,
                momentum=optimizer.momentum,
                nesterov=optimizer.nesterov,
                weight_decay=0.0,
                dampening=0.0,
                maximize=False,
                is_first_step=False,
            )
            return
        assert not isinstance(optimizer, specs.Muon)
        decayed = isinstance(optimizer, specs.AdamW)
        kernel = _aten._fused_adamw_ if decayed else _aten._fused_adam_
        for parts, decay in _decays(optimizer):
            kernel(
                rows("values", *parts),
                rows("gradient", *parts),
                rows("exp_avg", *parts),
                rows("exp_avg_sq", *parts),
                rows("max_exp_avg_sq", *parts) if optimizer.name == "amsgrad" else [],
                [self._counts[place] for _ in parts for place in places],
                lr=rate,
                beta1=optimizer.beta1,
                beta2=optimizer.beta2,
                eps=optimizer.epsilon,
                weight_decay=decay,
                amsgrad=optimizer.name == "amsgrad",
                maximize=False,
            )

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device).unsqueeze(1)


BOTH = (0, 1)  # of a network's row: what decays, the weights, and what does not


def _decays(optimizer: specs.Optimizer) -> Iterator[tuple[tuple[int, ...], float]]:
    if isinstance(optimizer, specs.AdamW):
        yield (0,), optimizer.weight_decay
        yield (1,), 0.0
    else:
        yield BOTH, 0.0


# What torch's optimisers keep of each parameter, beside the number of steps.
_STATE: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "amsgrad": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
}


def _joined(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([torch.cat([one.detach().flatten() for one in row]) for row in rows])


def _accumulate(total: Tensor, part: Tensor, *, first: bool) -> None:
    if first:
        total.copy_(part)
    else:
        total.add_(part)


@dataclass(frozen=True)
class _Buffers:
    """Memory for blocks of n rows. Lists have an item a hidden layer, of w units."""

    kept: list[Tensor]
    """(k, w, n): what the activation's derivative is taken of."""
    values: list[Tensor]
    """(k, w, n): what the next layer takes; `kept` itself where that is the same."""
    deltas: list[Tensor]
    """(k, w, n): the loss's gradient of the layer's sums."""
    spare: list[Tensor]
    """(k, w, n): nothing that lasts; all in one place."""
    logits: Tensor
    """(k, outputs, n)"""
    scores: Tensor
    """(k, outputs, n) float32: the logits, then the loss's gradient of them."""
    logs: Tensor
    """(k, outputs, n) float32: log-probabilities."""
    delta: Tensor
    """(k, outputs, n): `scores` in the type of the products."""

    @classmethod
    def of(
        cls,
        count: int,
        rows: int,
        layer_widths: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        *,
        apart: bool,
    ) -> "_Buffers":
        """`apart`: values lie elsewhere than what is kept."""
        _, *hidden, outputs = layer_widths

        def each() -> list[Tensor]:
            return [torch.empty(count, width, rows, dtype=dtype, device=device) for width in hidden]

        kept, scores = each(), torch.empty(count, outputs, rows, device=device)
        spare = torch.empty(count * max(hidden, default=0) * rows, dtype=dtype, device=device)
        rounded = dtype != torch.float32
        return cls(
            kept=kept,
            values=each() if apart else kept,
            deltas=each(),
            spare=[spare[: count * width * rows].view(count, width, rows) for width in hidden],
            logits=torch.empty(count, outputs, rows, dtype=dtype, device=device),
            scores=scores,
            logs=torch.empty_like(scores),
            delta=torch.empty(scores.shape, dtype=dtype, device=device) if rounded else scores,
        )
