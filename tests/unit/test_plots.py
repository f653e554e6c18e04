"""Pictures of series, regressions and classifiers, read back from the figure and from the bytes."""

import csv
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from PIL import Image

from service import plots
from service.data import simulated
from service.plots import Bin, Curve, Picture, Point


def points(*values: float, epochs: float = 10) -> list[Point]:
    return [Point(step, step / epochs, value) for step, value in enumerate(values)]


def table(picture: Picture) -> list[list[str]]:
    return list(csv.reader(io.StringIO(picture.csv().decode(), newline="")))


def texts(picture: Picture) -> set[str]:
    """What is written in the SVG."""
    root = ET.fromstring(picture.svg())  # noqa: S314 - our own
    return {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}


def opened(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.png()))
    image.load()
    return image


def sole_axes(picture: Picture) -> Axes:
    (axes,) = picture.figure().axes
    return axes


def label_boxes(figure: Figure) -> list[Bbox]:
    """Where annotations are written, from below; without their lines."""
    figure.draw_without_rendering()
    notes = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    return sorted((Text.get_window_extent(note) for note in notes), key=lambda box: box.y0)


def lightness(color: object) -> float:
    """Of CIE L*a*b*, 0 to 1 or so: what grey print shows."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]  # type: ignore[arg-type]
    return float(np.cbrt(np.dot(linear, (0.2126, 0.7152, 0.0722))))


FALLING = {"training": points(2.3, 0.9, 0.4, 0.2), "test": points(2.2, 1.0, 0.5, 0.3)}


def test_a_loss_shows_every_point_and_names_its_lines() -> None:
    picture = plots.loss(FALLING)
    axes = sole_axes(picture)
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn.keys() == {"training", "test"}
    assert np.asarray(drawn["test"].get_data()).tolist() == [[0, 1, 2, 3], [2.2, 1.0, 0.5, 0.3]]
    assert (axes.get_xlabel(), axes.get_yscale(), axes.get_ylim()[0]) == ("Iterations", "linear", 0)
    assert texts(picture) >= {"Cross-entropy loss", "Iterations", "training 0.2", "test 0.3"}


def test_a_loss_by_epoch_on_a_logarithmic_axis() -> None:
    axes = sole_axes(plots.loss(FALLING, axis="epoch", logarithmic=True))
    assert (axes.get_xlabel(), axes.get_yscale()) == ("Epochs", "log")
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "series",
    [
        {"training": points(2.0, 0.5, 0.0), "test": points(2.0, 0.7, 0.1)},
        {"training": points(2.0, 0.0, 0.0)},
        {"training": [Point(1, 1.0, 0.0)], "test": [Point(1, 1.0, 0.5)]},
    ],
)
def test_a_loss_that_ends_at_zero_is_named_at_the_foot_of_a_logarithmic_axis(
    series: dict[str, list[Point]],
) -> None:
    picture = plots.loss(series, logarithmic=True)
    assert sole_axes(picture).get_yscale() == "log"
    assert "training 0" in texts(picture)
    figure = picture.figure()
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in label_boxes(figure))


def test_a_logarithmic_axis_of_nothing_over_zero_is_linear() -> None:
    picture = plots.loss({"training": points(0.0, 0.0), "test": [Point(1, 0.1, 0.0)]}, logarithmic=True)
    assert sole_axes(picture).get_yscale() == "linear"
    assert {"training 0", "test 0"} <= texts(picture)


def test_the_ticks_of_six_decades_leave_room() -> None:
    picture = plots.loss({"training": points(2.0, 1e-2, 1e-6)}, logarithmic=True)
    figure = picture.figure()
    figure.draw_without_rendering()
    shown = [label for label in figure.axes[0].get_yticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.y0)
    assert len(boxes) > 4
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))


def test_lines_differ_in_grey() -> None:
    series = {name: points(3.0, 2.0, 1.0) for name in ("training", "validation", "test")}
    lines = sole_axes(plots.loss(series)).lines
    shades = [lightness(line.get_color()) for line in lines]
    assert all(after - before > 0.05 for before, after in pairwise(shades))
    assert len({line.get_marker() for line in lines}) == 3
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("last", [(0.30, 0.30, 0.30), (0.30, 0.301, 0.302), (2.0, 0.1, 0.1)])
def test_labels_at_the_ends_of_lines_lie_apart_and_within_the_picture(last: Sequence[float]) -> None:
    names = ("training", "validation", "test")
    picture = plots.loss(
        {name: points(2.0, value) for name, value in zip(names, last, strict=True)}, logarithmic=True
    )
    figure = picture.figure()
    boxes = label_boxes(figure)
    assert len(boxes) == 3
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in boxes)


def test_an_accuracy_axis_shows_the_end_of_the_run() -> None:
    series = {"training": points(0.08, 0.85, 0.9, 0.915), "test": points(0.07, 0.86, 0.91, 0.9239)}
    picture = plots.accuracy(series)
    axes = sole_axes(picture)
    low, high = axes.get_ylim()
    assert 0.7 < low < 0.85
    assert 0.9239 < high < 0.96
    assert texts(picture) >= {
        "training 91.50 %",
        "test 92.39 %",
        "not shown: the first of training 8.00 %, test 7.00 %",
    }


def test_an_accuracy_of_a_hundred_percent_is_not_at_the_edge() -> None:
    _, high = sole_axes(plots.accuracy({"training": points(0.1, 0.99, 1.0)})).get_ylim()
    assert 1 < high < 1.01


def test_a_flat_accuracy_has_room_around_it() -> None:
    low, high = sole_axes(plots.accuracy({"test": points(1.0, 1.0)})).get_ylim()
    assert low < 1 < high


@pytest.mark.parametrize("draw", [plots.loss, plots.accuracy])
def test_a_run_of_one_point(draw: Callable[..., Picture]) -> None:
    picture = draw({"training": [Point(1, 1.0, 0.3)], "validation": [], "test": [Point(1, 1.0, 0.25)]})
    axes = sole_axes(picture)
    assert [line.get_label() for line in axes.lines] == ["training", "test"]
    assert list(axes.get_xticks()) == [1]
    assert all(line.get_marker() != "None" and line.get_markersize() > 0 for line in axes.lines)
    assert table(picture) == [
        ["series", "step", "epoch", "value"],
        ["training", "1", "1.0", "0.3"],
        ["test", "1", "1.0", "0.25"],
    ]


def test_many_points_have_no_markers() -> None:
    (line,) = sole_axes(plots.loss({"training": points(*np.linspace(2, 1, 500))})).lines
    assert line.get_markersize() == 0


X, Y = (part[:, 0] for part in simulated.simulate(50, 0.5))
GRID = simulated.grid()[:, 0]
TRUTH = simulated.true_function(simulated.grid())[:, 0]
STEPS = (1, *range(200, 2001, 200))


def regression() -> Picture:
    curves = [Curve(step, float(step), (TRUTH * step / 2000).astype(np.float32)) for step in STEPS]
    return plots.fitted(curves, X, Y, GRID, TRUTH, heading="Fitted curves by iteration")


def test_fitted_curves_darken_and_carry_their_iteration() -> None:
    picture = regression()
    axes = sole_axes(picture)
    truth, *curves = axes.lines
    assert np.array_equal(np.asarray(truth.get_ydata()), TRUTH)
    assert len(curves) == 11
    shades = [lightness(curve.get_color()) for curve in curves]
    assert all(after < before for before, after in pairwise(shades))
    assert texts(picture) >= {"true function", "points", *(f"i={step}" for step in STEPS)}
    assert np.asarray(axes.collections[0].get_offsets()).shape == (50, 2)


def test_labels_lie_along_their_curves_as_in_the_lecture() -> None:
    notes = [child for child in sole_axes(regression()).get_children() if isinstance(child, Annotation)]
    for note, step in zip(notes, STEPS, strict=True):
        x, y = note.xy
        place = max(round(step / 2000 * 315), 1) - 1
        assert [x, y] == pytest.approx([GRID[place], TRUTH[place] * step / 2000])


def test_the_labels_of_curves_do_not_cover_each_other() -> None:
    boxes = label_boxes(regression().figure())
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[place + 1 :])


def test_the_table_of_fitted_curves() -> None:
    rows = table(
        plots.fitted([Curve(7, 0.5, np.array([0.1, 2], np.float32))], X, Y, GRID[:2], TRUTH[:2], heading="h")
    )
    assert rows == [["step", "epoch", "x", "y"], ["7", "0.5", "0.0", "0.1"], ["7", "0.5", "0.01", "2.0"]]


def test_one_curve_of_step_zero() -> None:
    assert "i=0" in texts(plots.fitted([Curve(0, 0.0, TRUTH)], X, Y, GRID, TRUTH, heading="h"))


def test_points_about_the_true_function() -> None:
    picture = plots.scattered(X, Y, GRID, TRUTH, heading="simulated")
    axes = sole_axes(picture)
    assert np.allclose(np.asarray(axes.collections[0].get_offsets()), np.column_stack((X, Y)))
    rows = table(picture)
    assert (len(rows), rows[1]) == (1 + 50 + 315, ["point", str(X[0]), str(Y[0])])
    assert rows[51][0] == "true"


def test_a_confusion_matrix_colours_errors_and_not_the_diagonal() -> None:
    counts = np.diag(np.arange(980, 990))
    counts[4, 9], counts[7, 2] = 28, 1
    picture = plots.confusion(counts)
    axes = sole_axes(picture)
    errors, diagonal = (child for child in axes.get_children() if isinstance(child, AxesImage))
    shown = errors.get_array()
    assert shown is not None
    assert np.ma.getmaskarray(shown).sum() == 98
    assert (shown[4, 9], shown[7, 2]) == (28, 1)
    rgba = np.asarray(errors.to_rgba(shown))
    white = np.ones(3)
    assert lightness(rgba[7, 2, :3]) < lightness(white) - 0.05  # one error in ten thousand is tinted
    assert lightness(rgba[4, 9, :3]) < lightness(rgba[7, 2, :3]) - 0.3
    grey = np.asarray(diagonal.to_rgba(np.zeros((1, 1))))[0, 0]
    assert grey[0] == grey[1] == grey[2] > 0.9
    written = [text.get_text() for text in axes.texts]
    assert written.count("·") == 88
    assert {"28", "1", "980", "989"} <= set(written)
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert axes.get_ylim() == (9.5, -0.5)  # class 0 is the first row
    assert picture.heading == "Confusion: 29 errors in 9,874 test images"


def test_the_table_of_a_confusion_matrix() -> None:
    assert table(plots.confusion(np.array([[5, 1], [0, 7]]))) == [
        ["true", "predicted", "count"],
        ["0", "0", "5"],
        ["0", "1", "1"],
        ["1", "0", "0"],
        ["1", "1", "7"],
    ]


def test_a_confusion_matrix_without_errors() -> None:
    assert "Confusion: 0 errors in 20 test images" in texts(plots.confusion(np.eye(2, dtype=int) * 10))


BINS = [Bin(0.0, 0.5, 0, None, None), Bin(0.5, 0.9, 20, 0.75, 0.7), Bin(0.9, 1.0, 80, 0.95, 0.96)]


def test_calibration() -> None:
    picture = plots.calibration(BINS)
    upper, lower = picture.figure().axes
    assert np.asarray(upper.lines[1].get_data()).tolist() == [[0.7, 0.96], [0.75, 0.95]]
    assert [bar.get_height() for bar in lower.patches] == [20, 80]  # type: ignore[attr-defined]
    assert lower.get_yscale() == "log"
    assert picture.heading == "Calibration: expected calibration error 1.80 %"
    assert table(picture)[1:3] == [["0.0", "0.5", "0", "", ""], ["0.5", "0.9", "20", "0.75", "0.7"]]


def test_calibration_before_and_after() -> None:
    after = [BINS[0], Bin(0.5, 0.9, 10, 0.8, 0.8), Bin(0.9, 1.0, 90, 0.95, 0.96)]
    picture = plots.calibration(BINS, after)
    upper, _ = picture.figure().axes
    assert [line.get_label() for line in upper.lines] == ["as sure as right", "as trained", "calibrated"]
    assert picture.heading == "Calibration: expected calibration error 1.80 %, calibrated 0.90 %"
    assert table(picture)[0][5:] == ["calibrated_count", "calibrated_accuracy", "calibrated_confidence"]
    assert table(picture)[2] == ["0.5", "0.9", "20", "0.75", "0.7", "10", "0.8", "0.8"]


def test_calibration_of_nothing() -> None:
    assert opened(plots.calibration([Bin(0.0, 1.0, 0, None, None)])).size == (1036, 777)


EVERY = {
    "loss": plots.loss(FALLING, logarithmic=True),
    "accuracy": plots.accuracy(FALLING),
    "fitted": regression(),
    "confusion": plots.confusion(np.arange(100).reshape(10, 10)),
    "calibration": plots.calibration(BINS),
    "weights": plots.weights(np.random.default_rng(0).standard_normal((5, 784)).astype(np.float32)),
}


@pytest.mark.parametrize("picture", EVERY.values(), ids=EVERY)
def test_the_same_data_give_the_same_bytes(picture: Picture) -> None:
    assert (picture.svg(), picture.png(), picture.csv()) == (picture.svg(), picture.png(), picture.csv())
    assert b"dc:date" not in picture.svg()
    image = opened(picture)
    assert image.width > 400
    assert len(np.unique(np.asarray(image.convert("L")))) > 20


@pytest.mark.parametrize("picture", EVERY.values(), ids=EVERY)
def test_nothing_is_written_outside_the_picture(picture: Picture) -> None:
    figure = picture.figure()
    figure.draw_without_rendering()
    tight = figure.get_tightbbox()
    assert tight.x0 >= 0
    assert tight.y0 >= 0
    assert tight.x1 <= picture.size[0] + 0.01
    assert tight.y1 <= picture.size[1] + 0.01


def test_many_threads_get_the_same_bytes() -> None:
    alone = {name: (picture.svg(), picture.png()) for name, picture in EVERY.items()}

    def draw(name: str) -> tuple[str, tuple[bytes, bytes]]:
        return name, (EVERY[name].svg(), EVERY[name].png())

    with ThreadPoolExecutor(8) as pool:
        for name, drawn in pool.map(draw, list(EVERY) * 4):
            assert drawn == alone[name], name


def test_the_settings_of_matplotlib_are_left_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    mpl.rcParams["font.size"] = 31  # as a matplotlibrc might
    try:
        in_another_style = EVERY["loss"].svg()
        assert mpl.rcParams["font.size"] == 31
    finally:
        mpl.rcParams["font.size"] = before["font.size"]
    assert dict(mpl.rcParams) == before
    assert in_another_style == EVERY["loss"].svg()


def test_a_process_pays_for_matplotlib_with_its_first_picture_and_never_for_pyplot() -> None:
    code = """
import sys
from service.api import app
from service import plots
picture = plots.loss({"test": [plots.Point(1, 1.0, 0.5)]})
picture.csv()
assert not any(name.partition(".")[0] in ("matplotlib", "torch") for name in sys.modules)
picture.png()
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
