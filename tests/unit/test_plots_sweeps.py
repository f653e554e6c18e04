"""Pictures of sweeps, read back from the figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage

from service import plots
from service.figures import ranking
from service.plots import Point, Trial
from service.plots.sweeps import ROWS_SHOWN
from tests.unit.test_plots import lightness, opened, sole_axes, table, texts

RATES = [0.001, 0.01, 0.1]


def trials(
    values: Sequence[tuple[Mapping[str, Any], float | None]], metric: str = "validation_accuracy"
) -> list[Trial]:
    ranks = ranking.ranks([value for _, value in values], metric)
    return [
        Trial(index, f"job_{index}", "succeeded", changes, value, rank)
        for index, ((changes, value), rank) in enumerate(zip(values, ranks, strict=True))
    ]


SEEDED = trials(
    [
        ({"optimizer.learning_rate": rate, "seed": seed}, 0.9 + rate + 0.01 * seed)
        for rate in RATES
        for seed in (0, 1)
    ]
)


def test_one_field_of_numbers_runs_along_an_axis_with_the_mean_over_seeds() -> None:
    assert plots.differing(SEEDED, ["optimizer.learning_rate", "seed"]) == ["optimizer.learning_rate"]
    picture = plots.swept(SEEDED, ["optimizer.learning_rate"], "validation_accuracy", logarithmic=True)
    axes = sole_axes(picture)
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "optimizer.learning_rate")
    (line,) = axes.lines
    assert np.asarray(line.get_data()).tolist() == [RATES, pytest.approx([0.906, 0.915, 1.005])]
    points, best = (item for item in axes.collections if isinstance(item, PathCollection))
    assert len(np.asarray(points.get_offsets())) == 6
    assert np.asarray(best.get_offsets()).tolist() == [[0.1, pytest.approx(1.01)]]
    assert {"Validation accuracy of 6 members", "101.00 %", "0.01"} <= texts(picture)
    assert opened(picture).size[0] > 800


def test_no_line_where_something_else_varies_too() -> None:
    found = trials([({"a": number, "b": number % 2}, 0.5 + number / 10) for number in range(4)])
    assert not sole_axes(plots.swept(found, ["a"], "test_loss")).lines
    assert sole_axes(plots.swept(found, ["a"], "test_loss")).get_xscale() == "linear"


def test_the_best_loss_is_the_lowest() -> None:
    found = trials([({"a": number}, float(abs(number - 3))) for number in range(7)], "validation_loss")
    _, best = (item for item in sole_axes(plots.swept(found, ["a"], "validation_loss")).collections)
    assert np.asarray(best.get_offsets()).tolist() == [[3, 0]]


def test_two_fields_are_a_map_dark_where_it_is_good() -> None:
    found = trials(
        [
            ({"batch_size": size, "network.hidden_widths": widths, "seed": seed}, value + 0.01 * seed)
            for size, widths, value in ((100, [8], 0.90), (20, [8], 0.95), (100, [8, 8], 0.85))
            for seed in (0, 1)
        ]
    )
    picture = plots.swept(found, ["batch_size", "network.hidden_widths"], "validation_accuracy")
    axes = sole_axes(picture)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["20", "100"]  # by size, not as given
    assert [label.get_text() for label in axes.get_xticklabels()] == ["[8]", "[8, 8]"]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "95.50 %", (0, 1): "90.50 %", (1, 1): "85.50 %", (1, 0): "·"}
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    shares = image.get_array()
    assert shares is not None
    colors = np.asarray(image.to_rgba(shares))
    assert lightness(colors[0, 0, :3]) < lightness(colors[1, 0, :3]) < lightness(colors[1, 1, :3])


def test_a_map_of_equal_figures_and_one_of_losses() -> None:
    same = trials([({"a": a, "b": b}, 0.5) for a in (0, 1) for b in (0, 1)])
    assert "50.00 %" in texts(plots.swept(same, ["a", "b"], "validation_accuracy"))
    losses = trials([({"a": a, "b": 0}, float(a)) for a in (0, 1)], "test_loss")
    axes = sole_axes(plots.swept(losses, ["a", "b"], "test_loss"))
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert bold == ["0"]


def test_anything_else_is_ranked_best_first() -> None:
    found = trials(
        [
            ({"network": {"activation": "relu"}, "augmentation": None, "flag": True}, 0.9),
            ({"network": {"activation": "tanh"}, "augmentation": None, "flag": False}, 0.95),
            ({"network": {"activation": "gelu"}, "augmentation": {"rotation": 9.0}, "flag": False}, None),
        ]
    )
    picture = plots.swept(found, ["network", "augmentation", "flag"], "validation_accuracy")
    said = [text.get_text() for text in sole_axes(picture).texts]
    assert said[:2] == ["95.00 %", "90.00 %"]
    assert said[2:5] == ["network", '{"activation": "tanh"}', '{"activation": "relu"}']
    assert said[-2:] == ["false", "true"]
    assert picture.heading == "Validation accuracy of 2 of 3 members"
    rows = table(picture)
    assert rows[0] == [
        *("rank", "index", "job_id", "state", "network", "augmentation", "flag", "validation_accuracy"),
    ]
    assert [row[:2] for row in rows[1:]] == [["1", "1"], ["2", "0"], ["", "2"]]
    assert rows[3][4:] == ['{"activation": "gelu"}', '{"rotation": 9.0}', "false", ""]


def test_of_many_the_best_are_drawn_and_all_are_told() -> None:
    found = trials([({"a": str(number), "b": 0, "c": number}, number / 1000) for number in range(300)])
    picture = plots.swept(found, ["a", "b", "c"], "validation_accuracy")
    assert len(sole_axes(picture).get_yticks()) == ROWS_SHOWN
    assert "260 more are worse" in sole_axes(picture).get_xlabel()
    assert len(table(picture)) == 301
    assert opened(picture).size[1] < 3000


def test_a_field_of_booleans_or_texts_has_no_axis() -> None:
    for value in (True, "relu", None, [3]):
        assert not plots.is_numeric(trials([({"a": value}, 1.0), ({"a": 1}, 1.0)]), "a")


def test_seeds_alone_are_compared_as_they_are() -> None:
    found = trials([({"seed": seed}, 0.9 + 0.01 * seed) for seed in range(3)])
    assert plots.differing(found, ["seed"]) == ["seed"]
    assert "92.00 %" in texts(plots.swept(found, ["seed"], "validation_accuracy"))


def test_series_lie_over_each_other_with_the_best_three_marked() -> None:
    found = trials([({"a": number}, 1.0 / (number + 1)) for number in range(5)], "test_loss")
    series = {
        one.index: [Point(step, step / 10, (one.value or 0) + 1 / step) for step in (1, 2)] for one in found
    }
    picture = plots.overlaid(series, found, "test_loss", axis="epoch", logarithmic=True)
    axes = sole_axes(picture)
    assert (axes.get_yscale(), axes.get_xlabel(), len(axes.lines)) == ("log", "Epochs", 5)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["4", "3", "2"]
    styles = {(line.get_color(), str(line.get_linestyle())) for line in axes.lines}
    assert len(styles) == 4
    assert len(table(picture)) == 11
    assert table(picture)[1] == ["1", "4", "job_4", "1", "0.1", "1.2"]


def test_a_logarithmic_axis_of_series_of_nothing_over_zero_is_linear() -> None:
    found = trials([({"a": 1}, 0.0)], "test_loss")
    picture = plots.overlaid({0: [Point(1, 0.1, 0.0)]}, found, "test_loss", logarithmic=True)
    assert sole_axes(picture).get_yscale() == "linear"
