"""The step's forward and backward: a batch's loss, and its gradient in the `grad` of every parameter.

`Backpropagation` is written by hand for the plain network on a CPU; every other network, and every GPU, goes
through autograd. What the hand-written one gains is in the memory: nothing is allocated but at the first batch of
a size, the input's gradient is never taken, and each product finds its operands as the library is fastest with
them. In bfloat16 that is both row by row: a left operand that is read by columns runs at half the speed (on AMX
550 against 1,200 GFLOP/s a core, torch 2.15), while turning it first costs a tenth of what that saves. So the
deltas are turned for the gradients of the weights, and a batch that stays the whole run is kept turned as well.
The classes' scores lie one class a row, which makes log-softmax over ten of them some ten times as fast.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from service.evaluation import mean_loss
from service.network import MultiLayerPerceptron
from service.spec import TrainingSpec
from worker.activations import BY_HAND
from worker.crew import ALONE, Crew
from worker.device import autocast, product_type

ROWS = 16_384  # a member takes at once at most: fewer meetings, and half of 60,000 among two


class Step(Protocol):
    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Set `grad` of every parameter to the gradient of the batch's mean loss, and return that loss, a
        scalar in float32: with label smoothing, without L1 and L2. `inputs` (n, inputs) as
        `network.normalize` makes them, in float32 or `device.product_type`; `targets` as `mean_loss` has
        them. Dropout draws from the network's generator."""
        ...


def make(spec: TrainingSpec, network: MultiLayerPerceptron, crew: Crew = ALONE) -> Step:
    """The faster way that there is for this network where it lies. Only one that `shares` has a use for a crew."""
    if shares(spec, next(network.parameters()).device):
        return Backpropagation(spec, network, crew)
    return Autograd(spec, network)


def shares(spec: TrainingSpec, device: torch.device) -> bool:
    """Whether the step is written by hand there, and its work is shared among a crew."""
    return spec.network.normalization == "none" and device.type == "cpu"


def stays(spec: TrainingSpec) -> bool:
    """Whether every step takes the same batch: the order within the only one changes nothing."""
    return spec.plan.batch == spec.plan.examples and spec.augmentation is None


class Autograd:
    """Torch's own: bfloat16 by autocast."""

    def __init__(self, spec: TrainingSpec, network: MultiLayerPerceptron) -> None:
        self._spec, self._network = spec, network
        self._low_precision = autocast(spec, next(network.parameters()).device)

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self._low_precision:
            logits = self._network.logits(inputs)
        smoothing = self._spec.regularization.label_smoothing
        loss = mean_loss(logits, targets, self._spec.loss_name, smoothing)
        self._network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class Backpropagation:
    """Forward and backward by hand, in float32, or with products in bfloat16: weights cast once a step, sums in
    float32, what lies between the layers in bfloat16, the loss and the gradients in float32.

    The members of a crew take rows of the batch each as far as the deltas of every layer, and then rows of every
    gradient, whose products sum over the whole batch: nothing is added up between them but the loss. A batch of
    more than `ROWS` a member is taken in blocks whose gradients are added up; with dropout, whose masks are drawn
    for a whole batch, it is one block."""

    def __init__(self, spec: TrainingSpec, network: MultiLayerPerceptron, crew: Crew = ALONE) -> None:
        self._spec, self._network, self._crew = spec, network, crew
        self._stays = stays(spec)
        self._dtype = product_type(spec, torch.device("cpu"))
        parameters = list(network.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._gradients = [_gradient(parameter) for parameter in parameters]
        self._masters = self._copies = [parameter.detach() for parameter in parameters]
        if self._is_rounded:
            self._copies = [master.to(self._dtype) for master in self._masters]
        self._layers = list(zip(self._copies[::2], self._copies[1::2], strict=True))
        self._casts = [self._cast_share(member) for member in range(crew.size)]
        self._products = [self._product_shares(member) for member in range(crew.size)]
        self._activation = BY_HAND[spec.network.activation]
        self._buffers: dict[int, _Buffers] = {}
        self._staying: list[_Block] = []
        # of the first layer, where the batch is kept turned
        self._turned_gradient = self._turned_product = self._turned_weight = torch.empty(0)

    @property
    def _is_rounded(self) -> bool:
        return self._dtype != torch.float32

    def _cast_share(self, member: int) -> tuple[list[Tensor], list[Tensor]]:
        """The member's rows of the copies, and of the weights that they are copies of."""
        pairs = zip(self._copies, self._masters, strict=True)
        shares = [
            (copy[rows], master[rows])
            for copy, master in pairs
            if len(copy[rows := self._crew.share(member, len(master))])
        ]
        return [copy for copy, _ in shares], [master for _, master in shares]

    def _product_shares(self, member: int) -> list[Tensor]:
        """Memory for the member's rows of each layer's gradient as a product leaves it."""
        shares = [weight[self._crew.share(member, len(weight))] for weight, _ in self._layers]
        if not self._is_rounded:
            return shares  # never written to: float32 goes into the gradient itself
        memory = torch.empty(max(share.numel() for share in shares), dtype=self._dtype)
        return [memory[: share.numel()].view_as(share) for share in shares]

    @torch.no_grad()
    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._is_rounded:
            self._crew.each(self._cast)
        loss = torch.zeros(())
        for index, block in enumerate(self._blocks(inputs, targets)):
            if index == 0 and block.columns is not None:
                self._turned_weight.copy_(self._layers[0][0].t())
            buffers = self._buffers_of(len(block.inputs))
            if self._network.dropout:
                for mask in buffers.masks:
                    self._network.draw_kept(mask)
            for part in self._crew.each(partial(self._deltas, block, buffers)):
                loss += part
            self._crew.each(partial(self._sums, block, buffers, first=index == 0))
        if self._turned_gradient.numel():
            self._gradients[0].copy_(self._turned_gradient.t())  # once, as this is slow
        return loss

    def _cast(self, member: int) -> None:
        torch._foreach_copy_(*self._casts[member])

    def _blocks(self, inputs: Tensor, targets: Tensor) -> Iterator["_Block"]:
        """The batch's blocks, each to be done with before the next is asked for."""
        if not self._stays:
            yield from self._cut(inputs, targets)
            return
        if not self._staying:
            self._staying = [self._kept(block) for block in self._cut(inputs, targets)]
        yield from self._staying

    def _cut(self, inputs: Tensor, targets: Tensor) -> Iterator["_Block"]:
        count = 1 if self._network.dropout else math.ceil(len(inputs) / (ROWS * self._crew.size))
        rows = math.ceil(len(inputs) / count)
        for part, classes in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
            yield self._block(part.to(self._dtype), classes, len(inputs))

    def _kept(self, block: "_Block") -> "_Block":
        own = replace(block, wanted=[wanted.clone() for wanted in block.wanted])
        # an only layer's deltas are few, and turned already
        if not self._is_rounded or len(self._layers) == 1:
            return own
        if not self._turned_gradient.numel():
            self._turned_gradient = torch.empty(self._masters[0].t().shape)
            self._turned_product = torch.empty(self._turned_gradient.shape, dtype=self._dtype)
            self._turned_weight = torch.empty_like(self._turned_product)
        return replace(own, columns=block.inputs.t().contiguous())

    def _block(self, inputs: Tensor, targets: Tensor, examples: int) -> "_Block":
        parts = self._buffers_of(len(inputs)).parts
        for part in parts:
            self._want(part.wanted, targets[part.rows], examples)
        return _Block(inputs, [part.wanted for part in parts], examples)

    def _want(self, wanted: Tensor, targets: Tensor, examples: int) -> None:
        """Fill `wanted`, see `_Block`."""
        entropy = self._spec.loss_name == "cross_entropy"
        if targets.is_floating_point():
            wanted.copy_(targets.t())
            if entropy:  # of probabilities
                wanted.mul_(-1 / examples)
        elif entropy:
            smoothing = self._spec.regularization.label_smoothing
            spread = smoothing / len(wanted)
            wanted.fill_(-spread / examples)
            wanted.scatter_(0, targets.unsqueeze(0), (smoothing - 1 - spread) / examples)
        else:
            wanted.zero_().scatter_(0, targets.unsqueeze(0), 1.0)

    def _buffers_of(self, rows: int) -> "_Buffers":
        if rows not in self._buffers:
            shape = _Shape(
                widths=self._spec.layer_widths,
                dtype=self._dtype,
                apart=bool(self._network.dropout) or not self._activation.from_output,
                dropout=bool(self._network.dropout),
            )
            shares = [self._crew.share(member, rows) for member in range(self._crew.size)]
            self._buffers[rows] = _Buffers.of(rows, shape, shares)
        return self._buffers[rows]

    def _deltas(self, block: "_Block", buffers: "_Buffers", member: int) -> Tensor:
        """The member's rows forward and back; gives their part of the loss."""
        part = buffers.parts[member]
        self._forward(block, part)
        loss = self._loss(block.wanted[member], block.examples, part)
        self._backward(block, part)
        return loss

    def _forward(self, block: "_Block", part: "_Part") -> None:
        (*hidden, (weight, bias)), values = self._layers, block.inputs[part.rows]
        for index, (inner, inner_bias) in enumerate(hidden):
            kept, following = part.kept[index], part.values[index]
            is_turned = index == 0 and block.columns is not None
            turned = self._turned_weight if is_turned else inner.t()
            torch.addmm(inner_bias, values, turned, out=kept)
            activated = kept if self._activation.from_output else following
            self._activation.forward(kept, activated)
            if self._network.dropout:
                torch.mul(activated, part.masks[index], out=following)
                following.mul_(1 / (1 - self._network.dropout))
            values = following
        torch.addmm(bias, values, weight.t(), out=part.logits)

    def _loss(self, wanted: Tensor, examples: int, part: "_Part") -> Tensor:
        """The part's share of the loss; the loss's gradient of the logits lies in `part.scores` then."""
        scores, logs = part.scores, part.logs
        scores.copy_(part.logits.t())
        if self._spec.loss_name == "mse":
            scores.sub_(wanted)
            mean = 1 / (len(scores) * examples)
            loss = torch.dot(scores.view(-1), scores.view(-1)).mul_(mean)
            scores.mul_(2 * mean)
            return loss
        torch.log_softmax(scores, 0, out=logs)
        torch.exp(logs, out=scores).mul_(1 / examples).add_(wanted)
        return torch.dot(wanted.view(-1), logs.view(-1))

    def _backward(self, block: "_Block", part: "_Part") -> None:
        """The deltas of every layer: turned, where the gradients want them so."""
        turned = part.turned[-1]
        turned.copy_(part.scores)
        delta = turned.t()
        for index in reversed(range(len(self._layers) - 1)):
            following = part.deltas[index]
            torch.mm(delta, self._layers[index + 1][0], out=following)
            if self._network.dropout:
                following.mul_(1 / (1 - self._network.dropout)).mul_(part.masks[index])
            self._activation.backward(following, part.kept[index], part.spare[index])
            if self._is_rounded and not (index == 0 and block.columns is not None):
                part.turned[index].copy_(following.t())
            delta = following

    def _sums(self, block: "_Block", buffers: "_Buffers", member: int, *, first: bool) -> None:
        """The member's rows of every gradient, over all of the block."""
        for index in range(len(self._layers)):
            bias = self._gradients[2 * index + 1]
            rows = self._crew.share(member, len(bias))
            if index == 0 and block.columns is not None:
                self._sum_turned(block.columns, buffers, member, first=first)
                sums = [part.deltas[0][:, rows].sum(0) for part in buffers.parts]
            else:
                turned = [part.turned[index][rows] for part in buffers.parts]
                self._sum_products(index, turned, block, buffers, member, first=first)
                sums = [each.sum(1) for each in turned]
            for number, each in enumerate(sums):
                _accumulate(bias[rows], each, first=first and number == 0)

    def _sum_turned(self, columns: Tensor, buffers: "_Buffers", member: int, *, first: bool) -> None:
        """Of the first layer's weights, turned: the member's rows are those of inputs."""
        share = self._crew.share(member, len(columns))
        product = self._turned_product[share]
        for number, part in enumerate(buffers.parts):
            _add_product(product, columns[share, part.rows], part.deltas[0], first=number == 0)
        _accumulate(self._turned_gradient[share], product, first=first)

    def _sum_products(
        self,
        index: int,
        turned: Sequence[Tensor],
        block: "_Block",
        buffers: "_Buffers",
        member: int,
        *,
        first: bool,
    ) -> None:
        gradient = self._gradients[2 * index][self._crew.share(member, len(self._gradients[2 * index]))]
        if not len(gradient):
            return
        product = self._products[member][index] if self._is_rounded else gradient
        begins = first or self._is_rounded
        for number, (delta, part) in enumerate(zip(turned, buffers.parts, strict=True)):
            values = block.inputs[part.rows] if index == 0 else part.values[index - 1]
            _add_product(product, delta, values, first=begins and number == 0)
        if self._is_rounded:
            _accumulate(gradient, product, first=first)


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    torch.addmm(total, left, right, beta=0 if first else 1, out=total)


def _accumulate(total: Tensor, part: Tensor, *, first: bool) -> None:
    if first:
        total.copy_(part)
    else:
        total.add_(part)


def _gradient(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@dataclass(frozen=True)
class _Block:
    """Rows of a batch of `examples`."""

    inputs: Tensor
    """(n, inputs)"""
    wanted: list[Tensor]
    """(outputs, m) float32 of each part: what mse compares with, or -1/examples of the smoothed labels or of the
    probabilities that are given."""
    examples: int
    columns: Tensor | None = None
    """The inputs turned, where that is worth its memory."""


@dataclass(frozen=True)
class _Shape:
    """What memory a block needs beside its number of rows."""

    widths: tuple[int, ...]
    dtype: torch.dtype
    apart: bool
    """Values lie elsewhere than what is kept."""
    dropout: bool


@dataclass(frozen=True)
class _Part:
    """One member's memory: for m rows of a block. Lists have an item a hidden layer, of w units."""

    rows: slice
    kept: list[Tensor]
    """(m, w): what the activation's derivative is taken of."""
    values: list[Tensor]
    """(m, w): what the next layer takes; `kept` itself where that is the same."""
    masks: list[Tensor]
    """(m, w): ones and zeros, with dropout."""
    deltas: list[Tensor]
    """(m, w): the loss's gradient of the layer's sums."""
    spare: list[Tensor]
    """(m, w): nothing that lasts; all in one place."""
    turned: list[Tensor]
    """(w, m): the deltas turned, in float32 by looking at them so; and one more for the outputs."""
    logits: Tensor
    """(m, outputs)"""
    scores: Tensor
    """(outputs, m) float32: the logits, then the loss's gradient of them."""
    logs: Tensor
    """(outputs, m) float32: log-probabilities."""
    wanted: Tensor
    """(outputs, m) float32: see `_Block`."""

    @classmethod
    def of(cls, rows: slice, shape: _Shape, masks: Sequence[Tensor]) -> "_Part":
        _, *hidden, outputs = shape.widths
        count = rows.stop - rows.start

        def each() -> list[Tensor]:
            return [torch.empty(count, width, dtype=shape.dtype) for width in hidden]

        kept, deltas = each(), each()
        turned = [delta.t() for delta in deltas]
        if shape.dtype != torch.float32:
            turned = [torch.empty(width, count, dtype=shape.dtype) for width in hidden]
        spare = torch.empty(count * max(hidden, default=0), dtype=shape.dtype)
        return cls(
            rows=rows,
            kept=kept,
            values=each() if shape.apart else kept,
            masks=[mask[rows] for mask in masks],
            deltas=deltas,
            spare=[spare[: count * width].view(count, width) for width in hidden],
            turned=[*turned, torch.empty(outputs, count, dtype=shape.dtype)],
            logits=torch.empty(count, outputs, dtype=shape.dtype),
            scores=torch.empty(outputs, count),
            logs=torch.empty(outputs, count),
            wanted=torch.empty(outputs, count),
        )


@dataclass(frozen=True)
class _Buffers:
    """Memory for blocks of n rows."""

    masks: list[Tensor]
    """(n, w) a hidden layer, with dropout"""
    parts: list[_Part]

    @classmethod
    def of(cls, rows: int, shape: _Shape, shares: Sequence[slice]) -> "_Buffers":
        hidden = shape.widths[1:-1] if shape.dropout else ()
        masks = [torch.empty(rows, width, dtype=shape.dtype) for width in hidden]
        return cls(masks, [_Part.of(share, shape, masks) for share in shares])
