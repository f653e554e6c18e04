"""Activations and their derivatives in memory that is given: torch's own kernels, as autograd calls them.

relu's derivative is taken of the bits in bfloat16, for a third of the time: a number above zero is one as an integer too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.spec import Activation

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class ActivationByHand:
    """An activation of `network.ACTIVATIONS` and its derivative, in given memory."""

    forward: Callable[[Tensor, Tensor], object]
    """From what is kept into what the next layer takes; it may change what is kept."""
    backward: Callable[[Tensor, Tensor, Tensor], object]
    """Times the derivative, in place, by what is kept; with memory of that size to spare."""
    from_output: bool = True
    """Whether the output alone is kept."""


def _scaled_tanh(kept: Tensor, out: Tensor) -> None:
    kept.mul_(0.6666).tanh_()
    torch.mul(kept, 1.7159, out=out)


def _scaled_tanh_backward(delta: Tensor, kept: Tensor, _spare: Tensor) -> None:
    delta.mul_(1.7159)
    _aten.tanh_backward.grad_input(delta, kept, grad_input=delta)
    delta.mul_(0.6666)


def _nothing(*_: Tensor) -> None:
    """Of the identity: its value is what is kept, and its derivative is 1."""


def _relu_backward(delta: Tensor, kept: Tensor, spare: Tensor) -> None:
    if delta.dtype != torch.bfloat16:
        _aten.threshold_backward.grad_input(delta, kept, 0, grad_input=delta)
        return
    passes = torch.clamp(kept.view(torch.int16), 0, 1, out=spare.view(torch.int16))
    delta.view(torch.int16).mul_(passes)


# The same kernels as autograd's, with the memory given.
BY_HAND: dict[Activation, ActivationByHand] = {
    "relu": ActivationByHand(
        lambda kept, out: torch.clamp_min(kept, 0, out=out),
        _relu_backward,
    ),
    "leaky_relu": ActivationByHand(
        lambda kept, out: _aten.leaky_relu.out(kept, 0.01, out=out),
        lambda delta, kept, _: _aten.leaky_relu_backward.grad_input(
            delta, kept, 0.01, True, grad_input=delta
        ),
    ),
    "tanh": ActivationByHand(
        lambda kept, out: torch.tanh(kept, out=out),
        lambda delta, kept, _: _aten.tanh_backward.grad_input(delta, kept, grad_input=delta),
    ),
    "scaled_tanh": ActivationByHand(_scaled_tanh, _scaled_tanh_backward, from_output=False),
    "sigmoid": ActivationByHand(
        lambda kept, out: torch.sigmoid(kept, out=out),
        lambda delta, kept, _: _aten.sigmoid_backward.grad_input(delta, kept, grad_input=delta),
    ),
    "gelu": ActivationByHand(
        lambda kept, out: _aten.gelu.out(kept, approximate="tanh", out=out),
        lambda delta, kept, _: _aten.gelu_backward.grad_input(
            delta, kept, approximate="tanh", grad_input=delta
        ),
        from_output=False,
    ),
    "silu": ActivationByHand(
        lambda kept, out: _aten.silu.out(kept, out=out),
        lambda delta, kept, _: _aten.silu_backward.grad_input(delta, kept, grad_input=delta),
        from_output=False,
    ),
    "identity": ActivationByHand(_nothing, _nothing),
}
