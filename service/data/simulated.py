"""The lecture's first example: points scattered about a curve that oscillates ever faster.

Source: lecture notes, "First Example", `_f` and `simulate`.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def true_function(x: Floats) -> Floats:
    """sin(x^x) / 2^((x^x - pi/2) / pi), for x >= 0, element by element (0^0 is 1)."""
    power = np.power(x, x)
    return np.asarray(np.sin(power) / np.exp2((power - math.pi / 2) / math.pi), dtype=np.float64)


def simulate(n: int, s: float = 1.0, *, seed: int = 0) -> tuple[Floats, Floats]:
    """`n` points x, uniform on [0, pi), and y = true_function(x) + normal noise of standard deviation `s`.

    Both are of shape (n, 1), float64. The same seed gives the same x, and the same noise up to its scale.
    """
    generator = np.random.default_rng(seed)
    x = generator.random((n, 1)) * math.pi
    return x, true_function(x) + generator.standard_normal((n, 1)) * s


def grid() -> Floats:
    """The lecture's plotting grid 0:0.01:pi, of shape (315, 1)."""
    return np.arange(315, dtype=np.float64)[:, np.newaxis] / 100
