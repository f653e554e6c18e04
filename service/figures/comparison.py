"""Two finished jobs side by side: is one better, or was it luck, and in what do their specs differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

EXACT_BELOW = 25  # discordant examples; from there on the chi-square approximation is good
Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same test examples. Shares are fractions; `difference` is a's accuracy minus
    b's, `interval` its 95 % confidence interval."""

    examples: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval
    only_a_right: int
    only_b_right: int
    p_value: float
    method: Literal["exact_binomial", "chi_square_corrected"]


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedTest:
    """McNemar's test (Psychometrika 12, 1947) of two classifiers, given which of the same n > 0 examples
    each got right, both (n,). Two-sided: exact binomial where fewer than 25 examples tell the two apart,
    else chi-square with one degree of freedom and Edwards's continuity correction (Psychometrika 13, 1948).
    Raises ValueError when the two differ in length or are empty."""
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"{a.shape} and {b.shape} are no answers to the same examples")
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    is_small = only_a + only_b < EXACT_BELOW
    return PairedTest(
        examples=n,
        accuracy_a=int(a.sum()) / n,
        accuracy_b=int(b.sum()) / n,
        difference=(only_a - only_b) / n,
        interval=paired_interval(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum())),
        only_a_right=only_a,
        only_b_right=only_b,
        p_value=exact_p_value(only_a, only_b) if is_small else corrected_p_value(only_a, only_b),
        method="exact_binomial" if is_small else "chi_square_corrected",
    )


def exact_p_value(b: int, c: int) -> float:
    """Two-sided probability of a split of b + c even chances at least as uneven as this one."""
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, math.ldexp(2 * tail, -(b + c)))


def worse_p_value(only_a: int, only_b: int) -> float:
    """Exact one-sided McNemar: the chance that of the examples which tell two classifiers apart at least `only_a` go to
    a, were both equally good. Small where b is worse; 1 where a alone is never right."""
    n = only_a + only_b
    tail, ways = 0, 1  # ways to choose so many of n, as whole numbers: a float ends at some thousand examples
    for k in range(only_b + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return tail / (1 << n)


def corrected_p_value(b: int, c: int) -> float:
    """Upper tail of chi-square with one degree of freedom at (|b - c| - 1)^2 / (b + c); b + c > 0."""
    distance = max(abs(b - c) - 1, 0)
    return math.erfc(distance / math.sqrt(2 * (b + c)))


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """95 % confidence interval of the difference between two paired proportions: Newcombe's square-and-add
    of two Wilson intervals (Statistics in Medicine 17, 2635-2650, 1998, method 10). Unlike Wald's it keeps
    its promise near 100 %, and has a width when no example tells the two apart."""
    n = both + only_a + only_b + neither
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = wilson_interval(both + only_a, n)
    low_b, high_b = wilson_interval(both + only_b, n)
    phi = _correlation(both, only_a, only_b, neither)
    difference = (only_a - only_b) / n
    below = _square_and_add(share_a - low_a, high_b - share_b, phi)
    above = _square_and_add(high_a - share_a, share_b - low_b, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Newcombe's phi, with its correction for continuity."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product, half = both * neither - only_a * only_b, (both + only_a + only_b + neither) / 2
    corrected = max(product - half, 0) if product >= 0 else product
    return float(corrected / math.sqrt(margins))


def _square_and_add(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % confidence interval of a proportion (Wilson, Journal of the American Statistical Association 22,
    1927)."""
    share, z2 = successes / n, Z95**2
    centre = share + z2 / (2 * n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (centre - reach) / (1 + z2 / n), (centre + reach) / (1 + z2 / n)


@dataclass(frozen=True)
class Difference:
    """One field in which specs differ: an RFC 6901 pointer, and the value by job. A field that a job's spec
    does not have is None."""

    pointer: str
    values: dict[str, Any]


def differences(specs: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """The fields that are not the same in all specs, given by job and as JSON; by pointer. A list is one
    value."""
    flat = {job: _flattened(spec) for job, spec in specs.items()}
    pointers = sorted({pointer for fields in flat.values() for pointer in fields})
    rows = ({job: fields.get(pointer) for job, fields in flat.items()} for pointer in pointers)
    return [Difference(pointer, row) for pointer, row in zip(pointers, rows, strict=True) if _varies(row)]


def _varies(values: Mapping[str, Any]) -> bool:
    first, *others = values.values()
    return any(other != first for other in others)


def _flattened(block: Mapping[str, Any], pointer: str = "#") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in block.items():
        inner = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if isinstance(value, Mapping) and value:
            found |= _flattened(value, inner)
        else:
            found[inner] = value
    return found
