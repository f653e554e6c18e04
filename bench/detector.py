"""Make service/serving/not_a_digit.safetensors: the small network that tells a digit from anything else.

    python -m bench.detector --minutes 20

It learns eleven classes: MNIST's ten, of its first 55,000 training images, and all else, which is drawn here: letters
of some fonts, pen strokes, shapes, noise, textures, pairs and inverted digits (outlier exposure: Hendrycks, Mazeika
and Dietterich 2019). It is measured on the last 5,000 training images and on what `bench.nondigits` draws
with other fonts and other programs; the test set is not looked at.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from bench import nondigits
from bench.nondigits import KINDS
from service import checkpoints
from service.data import datasets, digits
from service.data.augment import Augmenter
from service.data.digits import SIDE
from service.serving.confidence import NOT_A_DIGIT_ABOVE, Detector
from service.settings import load as load_settings
from service.spec import Augmentation, DatasetSpec

OUTPUT = Path(__file__).parent.parent / "service" / "serving" / "not_a_digit.safetensors"
WIDTHS = (SIDE * SIDE // 4, 128, 64, 11)
HELD_OUT = 5000
FONTS = (
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10", "cmmi10"),
    *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold"),
)
# none that is a digit in some hand: O o D Q, I i l, S s, Z z, B b G, g q
LETTERS = "ACEFHJKLMNPRTUVWXYacdefhjkmnprtuvwxy&?@#%"
CANVAS = 64
MILD = Augmentation(rotation=10, shear=10, scale=0.12, elastic=1.0)
STRONG = Augmentation(rotation=14, shear=16, scale=0.18, elastic=1.5)
Pixels = NDArray[np.uint8]
Pen = ImageDraw.ImageDraw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    settings = load_settings()
    data = datasets.load(DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    stream = Stream(data.train_inputs[:-HELD_OUT], data.train_targets[:-HELD_OUT])
    network = trained(stream, 60 * arguments.minutes)
    arguments.output.write_bytes(encoded(network, stream.mean))
    detector = Detector(arguments.output.read_bytes())
    limit = np.quantile(detector.margins(data.train_inputs[-HELD_OUT:]), NOT_A_DIGIT_ABOVE)
    for kind in KINDS:
        drawn_ones = np.stack([one.pixels for one in nondigits.drawn(kind, 500)])
        print(f"{kind}: {(detector.margins(drawn_ones) > limit).mean():.1%} told from held-out digits")
    return 0


def encoded(network: nn.Module, mean: Tensor) -> bytes:
    """The weights in half precision; the first bias centres the inputs."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, layer in enumerate(one for one in network.modules() if isinstance(one, nn.Linear)):
        weight, bias = layer.weight.detach(), layer.bias.detach()
        arrays[f"layers.{index}.weight"] = weight.numpy().astype(np.float16)
        arrays[f"layers.{index}.bias"] = (bias if index else bias - weight @ mean).numpy()
    return checkpoints.encode(arrays, {"format": 2, "kind": "not_a_digit"})


class Centred(nn.Sequential):
    """Takes pixels from 0 to 1, and looks at means of four."""

    def __init__(self, mean: Tensor) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(WIDTHS):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])
        self._mean = mean

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 11)."""
        logits: Tensor = super().forward(halved(pixels) - self._mean)  # type: ignore[no-untyped-call]
        return logits


def halved(pixels: Tensor) -> Tensor:
    """(n, 196) means of 2 x 2 of (n, 784)."""
    return functional.avg_pool2d(pixels.view(-1, 1, SIDE, SIDE), 2).flatten(1)


class Stream:
    """Batches without end: half of them digits."""

    def __init__(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        generator = np.random.default_rng(0)
        printed = glyphs("0123456789")
        self._digits = _Pool(images, labels, MILD, 200, thickened=0.25)
        self._printed = _Pool(printed, np.tile(np.arange(10), len(FONTS)), STRONG, 12, thickened=0.5)
        letters, repeated = glyphs(LETTERS), 20
        none = functools.partial(np.full, fill_value=10)
        self._letters = _Pool(
            np.tile(letters, (repeated, 1)), none(repeated * len(letters)), STRONG, 140, thickened=0.5
        )
        outlines = drawn(generator, 16_000, (_strokes, _strokes, _shape))
        self._outlines = _Pool(outlines, none(len(outlines)), MILD, 80, thickened=0.3)
        rest = np.concatenate(
            [drawn(generator, 12_000, (_leaves, _leaves, _cloud, _noise)), pairs(generator, images, 8000)]
        )
        self._rest = _Pool(rest, none(len(rest)), None, 80, thickened=0.0)
        self.mean = halved(torch.tensor(images[:10_000]).float()).mean(0) / 255

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pixels from 0 to 1, (512, 784), and classes (512,)."""
        parts = [
            pool.take() for pool in (self._digits, self._printed, self._letters, self._outlines, self._rest)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


class _Pool:
    """Images of one kind, deformed anew in every pass."""

    def __init__(
        self,
        images: Pixels,
        labels: NDArray[np.int64],
        how: Augmentation | None,
        share: int,
        *,
        thickened: float,
    ) -> None:
        self._images, self._labels = torch.tensor(images), torch.tensor(labels)
        self._share, self._thickened, self._pass = share, thickened, -1
        device = torch.device("cpu")
        zeros = torch.zeros(len(images), dtype=torch.int64)
        self._deformer = None if how is None else Augmenter(how, zeros, seed=len(images), device=device)
        self._order = torch.empty(0, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(share)

    def take(self) -> tuple[Tensor, Tensor]:
        if len(self._order) < self._share:
            self._pass += 1
            self._order = torch.randperm(len(self._images), generator=self._generator)
        rows, self._order = self._order[: self._share], self._order[self._share :]
        pixels = self._images[rows]
        if self._deformer is None:
            return pixels.float() / 255, self._labels[rows]
        plain = self._share // 3 if self._thickened == 0.25 else 0  # a third of the digits are as they are
        moved = self._deformer.deform(pixels[plain:], rows[plain:], variant=self._pass)
        mixed = torch.cat([pixels[:plain].float(), self._thick(moved)])
        return mixed / 255, self._labels[rows]

    def _thick(self, pixels: Tensor) -> Tensor:
        """Some with a thicker or a thinner pen."""
        square = pixels.reshape(-1, 1, SIDE, SIDE)
        thicker = functional.max_pool2d(square, 3, 1, 1)
        thinner = -functional.max_pool2d(-square, 3, 1, 1)
        chance = torch.rand(len(square), 1, 1, 1, generator=self._generator)
        amount = torch.rand(len(square), 1, 1, 1, generator=self._generator)
        chosen = torch.where(chance < 0.6 * self._thickened, thicker, thinner)
        mixed = torch.where(chance < self._thickened, square + 0.8 * amount * (chosen - square), square)
        return mixed.reshape(-1, SIDE * SIDE)


def trained(stream: Stream, seconds: float) -> nn.Module:
    """By AdamW over one cycle of the clock's time."""
    torch.manual_seed(0)
    network = Centred(stream.mean)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
    began = told = time.monotonic()
    step = 0
    while (progress := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(progress / 0.1, (1 - progress) / 0.9)
        pixels, classes = stream.batch()
        loss = functional.cross_entropy(network(pixels), classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(f"step {step:,}, {progress:.0%}, loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return network


def glyphs(characters: str) -> Pixels:
    """Each character in each font, font by font, (n, 784)."""
    return np.stack([_glyph(name, character) for name in FONTS for character in characters])


def _glyph(name: str, character: str) -> Pixels:
    picture = Image.new("L", (96, 96))
    ImageDraw.Draw(picture).text((20, 10), character, 255, _font(name))
    return digits.prepare(np.asarray(picture), mode="mnist").pixels


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", 52)


def drawn(
    generator: np.random.Generator, count: int, ways: Sequence[Callable[[np.random.Generator], Pixels]]
) -> Pixels:
    """So many pictures, each in the next of the ways, (count, 784)."""
    return np.stack([digits.prepare(ways[index % len(ways)](generator)).pixels for index in range(count)])


def _strokes(generator: np.random.Generator) -> Pixels:
    """One to four lines, arcs and curves with a pen."""
    picture = Image.new("L", (CANVAS, CANVAS))
    pen, width = ImageDraw.Draw(picture), int(generator.integers(3, 9))
    count = int(generator.integers(1, 5))
    for _ in range(count):
        _stroke(generator, pen, width, simple=count > 1)
    return np.asarray(picture)


def _stroke(generator: np.random.Generator, pen: Pen, width: int, *, simple: bool) -> None:
    points = generator.uniform(
        6, CANVAS - 6, (int(generator.integers(2, 8) if simple else generator.integers(5, 17)), 2)
    )
    match generator.integers(3):
        case 0:
            pen.line([(x, y) for x, y in points], 255, width, joint="curve")
        case 1 if simple:
            (left, right), (top, bottom) = np.sort(points[:2].T)
            start = generator.uniform(0, 360)
            pen.arc((left, top, right + 6, bottom + 6), start, start + generator.uniform(60, 340), 255, width)
        case _:
            at = np.linspace(0, len(points) - 1, 15 * len(points))
            smooth = np.stack([_eased(at, points[:, axis]) for axis in (0, 1)], 1)
            pen.line([(x, y) for x, y in smooth], 255, width, joint="curve")


def _eased(at: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    line = np.interp(at, np.arange(len(knots)), knots)
    return np.convolve(np.pad(line, 5, mode="edge"), np.full(11, 1 / 11), mode="valid")


def _shape(generator: np.random.Generator) -> Pixels:
    """A polygon, a star or a disc, filled or in outline; no ring, which is a 0."""
    picture = Image.new("L", (CANVAS, CANVAS))
    pen, corners = ImageDraw.Draw(picture), int(generator.integers(3, 13))
    if generator.random() < 0.2:
        left, top = generator.uniform(4, 22, 2)
        right, bottom = generator.uniform(42, 60, 2)
        (pen.ellipse if generator.random() < 0.5 else pen.rectangle)((left, top, right, bottom), 255)
        return np.asarray(picture)
    notch = generator.uniform(0.2, 0.8) if corners > 5 else 1.0
    radii = 28 * np.where(np.arange(corners) % 2, notch, 1.0)
    angles = generator.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    points = [(32 + x, 32 + y) for x, y in zip(radii * np.cos(angles), radii * np.sin(angles), strict=True)]
    if generator.random() < 0.5:
        pen.polygon(points, 255)
    else:
        pen.line([*points, points[0]], 255, int(generator.integers(2, 7)), joint="curve")
    return np.asarray(picture)


def _leaves(generator: np.random.Generator) -> Pixels:
    """Dead leaves: blots of any grey that hide each other, as natural pictures' statistics have it (Lee, Mumford
    and Huang 2001)."""
    picture = Image.new("L", (CANVAS, CANVAS), int(generator.integers(256)))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(generator.integers(2, 16))):
        middle, reach = generator.uniform(8, 56, 2), 3 / generator.uniform(0.1, 1, 2)
        (left, top), (right, bottom) = middle - reach, middle + reach
        way = pen.ellipse if generator.random() < 0.7 else pen.rectangle
        way((left, top, right, bottom), int(generator.integers(256)))
    small = np.asarray(picture.resize((SIDE * 2, SIDE * 2), Image.Resampling.BILINEAR), np.float32)
    return np.clip(small + generator.normal(0, generator.uniform(0, 12), small.shape), 0, 255).astype(
        np.uint8
    )


def _cloud(generator: np.random.Generator) -> Pixels:
    """Noise whose spectrum falls with some power of the frequency, over the whole picture or an oval of it."""
    side = SIDE if generator.random() < 0.5 else CANVAS
    axis = np.fft.fftfreq(side)
    falls = np.maximum(np.hypot(axis[:, np.newaxis], axis), 1 / side) ** -generator.uniform(0.0, 2.5)
    field = np.fft.ifft2(np.fft.fft2(generator.normal(size=(side, side))) * falls).real
    field = ((field - field.min()) / np.ptp(field)) ** generator.uniform(0.5, 2.5)
    if generator.random() < 0.4:
        at = np.linspace(-1, 1, side)
        height, width = generator.uniform(0.4, 1.0, 2)
        field = field * ((at[:, np.newaxis] / height) ** 2 + (at / width) ** 2 < 1)
    levels: Pixels = (255 * field).astype(np.uint8)
    return levels


def _noise(generator: np.random.Generator) -> Pixels:
    """Specks, few or many."""
    field = generator.uniform(0, 255, (SIDE, SIDE)) * (
        generator.random((SIDE, SIDE)) < generator.uniform(0.05, 1)
    )
    return field.astype(np.uint8)


def pairs(generator: np.random.Generator, images: Pixels, count: int) -> Pixels:
    """Two digits side by side, halves of two, and inverted ones, (count, 784)."""
    chosen = images[generator.integers(len(images), size=(2, count))].reshape(2, count, SIDE, SIDE)
    found = np.empty((count, SIDE, SIDE), np.uint8)
    for index, (one, other) in enumerate(zip(*chosen, strict=True)):
        match index % 4:
            case 0:
                wide = np.concatenate([one[:, 3:25], other[:, 3:25]], 1)
                found[index] = digits.prepare(wide, mode="mnist").pixels.reshape(SIDE, SIDE)
            case 1:
                found[index] = np.concatenate([one[:14], other[14:]])
            case 2:
                found[index] = np.concatenate([one[:, :14], other[:, 14:]], 1)
            case _:
                found[index] = 255 - one
    return found.reshape(count, -1)


if __name__ == "__main__":
    sys.exit(main())
