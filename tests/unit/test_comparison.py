import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.figures import comparison
from service.figures.comparison import Difference, differences, mcnemar, paired_interval, wilson_interval

CELL = st.integers(0, 60)


def table(both: int, only_a: int, only_b: int, neither: int) -> comparison.PairedTest:
    """The test of two classifiers that agree and differ so often."""
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return mcnemar(a, b)


def test_airway_hyper_responsiveness() -> None:
    """Bentur et al. 2009, as Fagerland, Lydersen and Laake work it out (Statistics in Medicine 33, 2014)."""
    found = table(1, 1, 7, 12)
    assert (found.examples, found.only_a_right, found.only_b_right) == (21, 1, 7)
    assert (found.accuracy_a, found.accuracy_b) == (2 / 21, 8 / 21)
    assert found.difference == pytest.approx(-0.286, abs=5e-4)
    assert found.p_value == pytest.approx(0.0703, abs=5e-5)
    assert found.method == "exact_binomial"
    assert found.interval == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_approval_of_the_prime_minister() -> None:
    """Agresti, Categorical Data Analysis, section 10.1: 150 and 86 changed their minds among 1,600."""
    found = table(794, 150, 86, 570)
    assert found.method == "chi_square_corrected"
    statistic = (64 - 1) ** 2 / 236
    assert statistic == pytest.approx(16.82, abs=5e-3)
    assert found.p_value == pytest.approx(4.115e-5, rel=1e-3)
    assert found.difference == 0.04
    assert found.interval == pytest.approx((0.0212, 0.0587), abs=5e-5)


def test_one_proportion() -> None:
    """Newcombe's example (Statistics in Medicine 17, 857-872, 1998): 81 of 263."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20)[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("b", "c", "expected"),
    [(0, 0, 1.0), (0, 5, 2 / 32), (5, 5, 1.0), (6, 16, 0.052479), (0, 24, 2 / 2**24), (1, 1, 1.0)],
)
def test_exact(b: int, c: int, expected: float) -> None:
    assert comparison.exact_p_value(b, c) == pytest.approx(expected, rel=1e-5)
    assert comparison.exact_p_value(c, b) == comparison.exact_p_value(b, c)


def test_where_exact_ends() -> None:
    assert table(5, 12, 12, 5).method == "exact_binomial"
    assert table(5, 12, 13, 5).method == "chi_square_corrected"
    assert comparison.corrected_p_value(30, 30) == 1.0
    assert comparison.corrected_p_value(27, 14) == pytest.approx(comparison.exact_p_value(27, 14), rel=0.05)


@given(CELL, CELL, CELL, CELL)
def test_the_two_may_change_places(both: int, only_a: int, only_b: int, neither: int) -> None:
    if both + only_a + only_b + neither == 0:
        return
    one, other = table(both, only_a, only_b, neither), table(both, only_b, only_a, neither)
    assert (one.p_value, one.difference) == (other.p_value, -other.difference)
    assert 0 < one.p_value <= 1
    low, high = one.interval
    assert -1 <= low <= one.difference <= high <= 1
    assert other.interval == pytest.approx((-high, -low))


@given(st.integers(0, 20), st.integers(0, 20))
def test_of_many_examples_the_interval_is_walds(only_a: int, only_b: int) -> None:
    both, neither, n = 60_000 - 100 * only_a, 40_000 - 100 * only_b, 100_000
    low, high = paired_interval(both, 100 * only_a, 100 * only_b, neither)
    b, c = only_a / 1000, only_b / 1000
    reach = comparison.Z95 * math.sqrt((b + c - (b - c) ** 2) / n)
    assert (low, high) == pytest.approx((b - c - reach, b - c + reach), abs=3e-4)


def test_the_interval_covers_what_it_promises() -> None:
    """Two classifiers of 97 and 96 % on 2,000 examples, drawn again and again."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(2000, [0.95, 0.02, 0.01, 0.02], size=2000)
    covered = [low <= 0.01 <= high for low, high in (paired_interval(*row) for row in drawn.tolist())]
    assert 0.94 <= np.mean(covered) <= 0.965


def test_answers_to_other_examples_are_refused() -> None:
    for a, b in ((np.ones(3, bool), np.ones(4, bool)), (np.ones(0, bool), np.ones(0, bool))):
        with pytest.raises(ValueError, match="same examples"):
            mcnemar(a, b)


def test_specs_differ_field_by_field() -> None:
    specs = {
        "a": {"seed": 0, "network": {"hidden_widths": [32], "activation": "relu"}, "augmentation": None},
        "b": {"seed": 0, "network": {"hidden_widths": [64], "activation": "relu"}, "augmentation": None},
        "c": {
            "seed": 1,
            "network": {"hidden_widths": [32], "activation": "relu"},
            "augmentation": {"a/b~": 1, "x": None},
        },
    }
    assert differences(specs) == [
        Difference("#/augmentation/a~1b~0", {"a": None, "b": None, "c": 1}),
        Difference("#/network/hidden_widths", {"a": [32], "b": [64], "c": [32]}),
        Difference("#/seed", {"a": 0, "b": 0, "c": 1}),
    ]
    assert differences({"a": specs["a"], "b": dict(specs["a"])}) == []


@given(CELL, CELL)
def test_worse_is_one_side_of_the_exact_test(only_a: int, only_b: int) -> None:
    """Where they are not equal, twice the smaller side is the two-sided probability."""
    worse = comparison.worse_p_value(only_a, only_b)
    if only_a > only_b:
        assert 2 * worse == pytest.approx(comparison.exact_p_value(only_a, only_b), rel=1e-9)
    n = only_a + only_b
    assert worse == pytest.approx(sum(math.comb(n, k) for k in range(only_b + 1)) / 2**n, rel=1e-12)


def test_worse_is_told_of_thousands() -> None:
    assert comparison.worse_p_value(0, 0) == comparison.worse_p_value(0, 5) == 1
    assert comparison.worse_p_value(5200, 4800) == pytest.approx(3.3e-5, rel=0.05)  # normal: z = 3.99
    assert comparison.worse_p_value(10_000, 0) == 0
