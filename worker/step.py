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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from service.evaluation import mean_loss
from service.network import MultiLayerPerceptron
from service.spec import Activation, TrainingSpec
from worker.device import autocast, product_type

ROWS = 8192  # taken at once at most: what a block's layers hand each other then stays in a CPU's cache
TURNED = 128  # rows turned at once: a matrix at once takes twice as long (torch 2.15)

_aten: Any = torch.ops.aten


class Step(Protocol):
    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Set `grad` of every parameter to the gradient of the batch's mean loss, and return that loss, a
        scalar in float32: with label smoothing, without L1 and L2. `inputs` (n, inputs) as
        `network.normalize` makes them, in float32 or `device.product_type`; `targets` as `mean_loss` has
        them. Dropout draws from the network's generator."""
        ...


def make(spec: TrainingSpec, network: MultiLayerPerceptron) -> Step:
    """The faster way that there is for this network where it lies."""
    plain = spec.network.normalization == "none"
    if plain and next(network.parameters()).device.type == "cpu":
        return Backpropagation(spec, network)
    return Autograd(spec, network)


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

    A batch of more than `ROWS` is taken in blocks whose gradients are added up; with dropout, whose masks are
    drawn for a whole batch, it is one block."""

    def __init__(self, spec: TrainingSpec, network: MultiLayerPerceptron) -> None:
        self._spec, self._network = spec, network
        self._dtype = product_type(spec, torch.device("cpu"))
        parameters = list(network.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._gradients = [_gradient(parameter) for parameter in parameters]
        self._masters = self._copies = [parameter.detach() for parameter in parameters]
        self._product = torch.empty(0)
        if self._is_rounded:
            self._copies = [master.to(self._dtype) for master in self._masters]
            largest = max(master.numel() for master in self._masters)
            self._product = torch.empty(largest, dtype=self._dtype)
        self._layers = list(zip(self._copies[::2], self._copies[1::2], strict=True))
        self._activation = _ACTIVATIONS[spec.network.activation]
        self._buffers: dict[int, _Buffers] = {}
        self._staying: list[_Block] = []
        self._turned_gradient = torch.empty(0)  # of the first layer's weights, where the batch is kept turned

    @property
    def _is_rounded(self) -> bool:
        return self._dtype != torch.float32

    @torch.no_grad()
    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._is_rounded:
            torch._foreach_copy_(self._copies, self._masters)
        loss = torch.zeros(())
        for index, block in enumerate(self._blocks(inputs, targets)):
            buffers = self._buffers_of(len(block.inputs))
            self._forward(block.inputs, buffers)
            loss += self._loss(block, buffers)
            self._backward(block, buffers, first=index == 0)
        if self._turned_gradient.numel():
            self._gradients[0].copy_(self._turned_gradient.t())  # once, as this is slow
        return loss

    def _blocks(self, inputs: Tensor, targets: Tensor) -> Iterator["_Block"]:
        """The batch's blocks, each to be done with before the next is asked for."""
        if not stays(self._spec):
            yield from self._cut(inputs, targets)
            return
        if not self._staying:
            self._staying = [self._kept(block) for block in self._cut(inputs, targets)]
        yield from self._staying

    def _cut(self, inputs: Tensor, targets: Tensor) -> Iterator["_Block"]:
        count = 1 if self._network.dropout else math.ceil(len(inputs) / ROWS)
        rows = math.ceil(len(inputs) / count)
        for part, classes in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
            yield self._block(part.to(self._dtype), classes, len(inputs))

    def _kept(self, block: "_Block") -> "_Block":
        # an only layer's deltas are few, and turned already
        turned = self._is_rounded and len(self._layers) > 1
        if not turned:
            return replace(block, wanted=block.wanted.clone())
        if not self._turned_gradient.numel():
            self._turned_gradient = torch.empty(self._masters[0].t().shape)
        return replace(block, wanted=block.wanted.clone(), columns=block.inputs.t().contiguous())

    def _block(self, inputs: Tensor, targets: Tensor, examples: int) -> "_Block":
        wanted = self._buffers_of(len(inputs)).wanted
        if targets.is_floating_point():
            wanted.copy_(targets.t())
        elif self._spec.loss_name == "mse":
            wanted.zero_().scatter_(0, targets.unsqueeze(0), 1.0)
        else:
            smoothing = self._spec.regularization.label_smoothing
            spread = smoothing / len(wanted)
            wanted.fill_(-spread / examples)
            wanted.scatter_(0, targets.unsqueeze(0), (smoothing - 1 - spread) / examples)
        return _Block(inputs, wanted, examples)

    def _buffers_of(self, rows: int) -> "_Buffers":
        if rows not in self._buffers:
            apart = bool(self._network.dropout) or not self._activation.from_output
            self._buffers[rows] = _Buffers.of(
                rows, self._spec.layer_widths, self._dtype, apart=apart, dropout=bool(self._network.dropout)
            )
        return self._buffers[rows]

    def _forward(self, inputs: Tensor, buffers: "_Buffers") -> None:
        (*hidden, (weight, bias)), values = self._layers, inputs
        for index, (inner, inner_bias) in enumerate(hidden):
            kept, following = buffers.kept[index], buffers.values[index]
            torch.addmm(inner_bias, values, inner.t(), out=kept)
            activated = kept if self._activation.from_output else following
            self._activation.forward(kept, activated)
            if self._network.dropout:
                mask = self._network.draw_kept(buffers.masks[index])
                torch.mul(activated, mask, out=following).mul_(1 / (1 - self._network.dropout))
            values = following
        torch.addmm(bias, values, weight.t(), out=buffers.logits)

    def _loss(self, block: "_Block", buffers: "_Buffers") -> Tensor:
        """The block's part of the loss; the loss's gradient of the logits lies in `buffers.scores` then."""
        wanted, scores, logs = block.wanted, buffers.scores, buffers.logs
        scores.copy_(buffers.logits.t())
        if self._spec.loss_name == "mse":
            scores.sub_(wanted)
            mean = 1 / (len(scores) * block.examples)
            loss = torch.dot(scores.view(-1), scores.view(-1)).mul_(mean)
            scores.mul_(2 * mean)
            return loss
        torch.log_softmax(scores, 0, out=logs)
        torch.exp(logs, out=scores).mul_(1 / block.examples).add_(wanted)
        return torch.dot(wanted.view(-1), logs.view(-1))

    def _backward(self, block: "_Block", buffers: "_Buffers", *, first: bool) -> None:
        turned = buffers.turned[-1]  # (outputs, n): the loss's gradient of what a layer gave
        if self._is_rounded:
            turned.copy_(buffers.scores)
        delta, sums = turned.t(), buffers.scores.sum(1)
        for index in reversed(range(len(self._layers))):
            _accumulate(self._gradients[2 * index + 1], sums, first=first)
            if index == 0:
                break
            self._add_product(2 * index, turned, buffers.values[index - 1], first=first)
            following = buffers.deltas[index - 1]
            torch.mm(delta, self._layers[index][0], out=following)
            self._through_activation(following, index - 1, buffers)
            delta, sums = following, following.sum(0)
            turned = self._turned(delta, index - 1, block, buffers)
        if block.columns is not None:
            product = self._product[: self._turned_gradient.numel()].view_as(self._turned_gradient)
            torch.mm(block.columns, delta, out=product)
            _accumulate(self._turned_gradient, product, first=first)
        else:
            self._add_product(0, turned, block.inputs, first=first)

    def _through_activation(self, delta: Tensor, index: int, buffers: "_Buffers") -> None:
        if self._network.dropout:
            delta.mul_(1 / (1 - self._network.dropout)).mul_(buffers.masks[index])
        self._activation.backward(delta, buffers.kept[index])

    def _turned(self, delta: Tensor, index: int, block: "_Block", buffers: "_Buffers") -> Tensor:
        if not self._is_rounded or (index == 0 and block.columns is not None):
            return delta.t()
        turned = buffers.turned[index]
        for rows, columns in zip(torch.split(delta, TURNED), torch.split(turned, TURNED, 1), strict=True):
            columns.copy_(rows.t())
        return turned

    def _add_product(self, parameter: int, turned: Tensor, values: Tensor, *, first: bool) -> None:
        gradient = self._gradients[parameter]
        if not self._is_rounded:
            torch.addmm(gradient, turned, values, beta=0 if first else 1, out=gradient)
            return
        product = self._product[: gradient.numel()].view_as(gradient)
        torch.mm(turned, values, out=product)
        _accumulate(gradient, product, first=first)


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
    wanted: Tensor
    """(outputs, n) float32: what mse compares with, or -1/examples of the smoothed labels."""
    examples: int
    columns: Tensor | None = None
    """The inputs turned, where that is worth its memory."""


@dataclass(frozen=True)
class _Buffers:
    """Memory for blocks of n rows. Lists have an item a hidden layer, of w units."""

    kept: list[Tensor]
    """(n, w): what the activation's derivative is taken of."""
    values: list[Tensor]
    """(n, w): what the next layer takes; `kept` itself where that is the same."""
    masks: list[Tensor]
    """(n, w): ones and zeros, with dropout."""
    deltas: list[Tensor]
    """(n, w): the loss's gradient of the layer's sums."""
    turned: list[Tensor]
    """(w, n): the same turned, in bfloat16; and in either type one more for the outputs."""
    logits: Tensor
    """(n, outputs)"""
    scores: Tensor
    """(outputs, n) float32: the logits, then the loss's gradient of them."""
    logs: Tensor
    """(outputs, n) float32: log-probabilities."""
    wanted: Tensor
    """(outputs, n) float32: see `_Block`."""

    @classmethod
    def of(
        cls, rows: int, layer_widths: tuple[int, ...], dtype: torch.dtype, *, apart: bool, dropout: bool
    ) -> "_Buffers":
        """`apart`: values lie elsewhere than what is kept."""
        _, *hidden, outputs = layer_widths

        def each() -> list[Tensor]:
            return [torch.empty(rows, width, dtype=dtype) for width in hidden]

        kept, scores = each(), torch.empty(outputs, rows)
        turned = [scores]
        if dtype != torch.float32:
            turned = [torch.empty(width, rows, dtype=dtype) for width in (*hidden, outputs)]
        return cls(
            kept=kept,
            values=each() if apart else kept,
            masks=each() if dropout else [],
            deltas=each(),
            turned=turned,
            logits=torch.empty(rows, outputs, dtype=dtype),
            scores=scores,
            logs=torch.empty_like(scores),
            wanted=torch.empty_like(scores),
        )


@dataclass(frozen=True)
class _Activation:
    """An activation of `network.ACTIVATIONS` and its derivative, in given memory."""

    forward: Callable[[Tensor, Tensor], object]
    """From what is kept into what the next layer takes; it may change what is kept."""
    backward: Callable[[Tensor, Tensor], object]
    """Times the derivative, in place, by what is kept."""
    from_output: bool = True
    """Whether the output alone is kept."""


def _scaled_tanh(kept: Tensor, out: Tensor) -> None:
    kept.mul_(0.6666).tanh_()
    torch.mul(kept, 1.7159, out=out)


def _scaled_tanh_backward(delta: Tensor, kept: Tensor) -> None:
    delta.mul_(1.7159)
    _aten.tanh_backward.grad_input(delta, kept, grad_input=delta)
    delta.mul_(0.6666)


def _nothing(*_: Tensor) -> None:
    """Of the identity: its value is what is kept, and its derivative is 1."""


# The same kernels as autograd's, with the memory given.
_ACTIVATIONS: dict[Activation, _Activation] = {
    "relu": _Activation(
        lambda kept, out: torch.clamp_min(kept, 0, out=out),
        lambda delta, kept: _aten.threshold_backward.grad_input(delta, kept, 0, grad_input=delta),
    ),
    "leaky_relu": _Activation(
        lambda kept, out: _aten.leaky_relu.out(kept, 0.01, out=out),
        lambda delta, kept: _aten.leaky_relu_backward.grad_input(delta, kept, 0.01, True, grad_input=delta),
    ),
    "tanh": _Activation(
        lambda kept, out: torch.tanh(kept, out=out),
        lambda delta, kept: _aten.tanh_backward.grad_input(delta, kept, grad_input=delta),
    ),
    "scaled_tanh": _Activation(_scaled_tanh, _scaled_tanh_backward, from_output=False),
    "sigmoid": _Activation(
        lambda kept, out: torch.sigmoid(kept, out=out),
        lambda delta, kept: _aten.sigmoid_backward.grad_input(delta, kept, grad_input=delta),
    ),
    "gelu": _Activation(
        lambda kept, out: _aten.gelu.out(kept, approximate="tanh", out=out),
        lambda delta, kept: _aten.gelu_backward.grad_input(delta, kept, approximate="tanh", grad_input=delta),
        from_output=False,
    ),
    "silu": _Activation(
        lambda kept, out: _aten.silu.out(kept, out=out),
        lambda delta, kept: _aten.silu_backward.grad_input(delta, kept, grad_input=delta),
        from_output=False,
    ),
    "identity": _Activation(_nothing, _nothing),
}
