"""Any image -> what the network sees, and what is refused."""

import struct
import tracemalloc
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.data import digits
from service.errors import Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia

LIMIT = 1_000_000


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def seven(
    side: int = 280, *, ink: int = 0, paper: int = 255, at: tuple[float, float] = (0.3, 0.25)
) -> Image.Image:
    """A seven drawn with a thick pen, about half as high as the picture."""
    picture = Image.new("L", (side, side), paper)
    x, y = (round(part * side) for part in at)
    reach, width = round(0.35 * side), max(1, side // 14)
    ImageDraw.Draw(picture).line(
        [(x, y), (x + reach, y), (x + reach // 3, y + round(1.4 * reach))], fill=ink, width=width
    )
    return picture


def read(image: bytes, mode: digits.Mode = "auto") -> digits.Digit:
    return digits.read(image, mode=mode, max_pixels=LIMIT)


def square(digit: digits.Digit) -> NDArray[np.float64]:
    return digit.pixels.reshape(28, 28).astype(np.float64)


def likeness(one: digits.Digit, other: digits.Digit) -> float:
    return float(np.corrcoef(one.pixels, other.pixels)[0, 1])


MNIST_LIKE = read(encoded(seven()))
CENTRED = (0.3, 0.36)  # as MNIST's digits lie, which are 28 pixels wide


def test_a_digit_is_normalised_as_mnist_does() -> None:
    pixels = square(MNIST_LIKE)
    rows, columns = np.nonzero(pixels)
    assert pixels.max() == 255
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    for axis in (0, 1):
        profile = pixels.sum(axis=1 - axis)
        assert abs(profile @ np.arange(28) / profile.sum() - 14) <= 0.5
    assert MNIST_LIKE.warnings == ()


@pytest.mark.parametrize("at", [(0.05, 0.05), (0.5, 0.4), (0.1, 0.45)])
def test_where_the_digit_lies_does_not_matter(at: tuple[float, float]) -> None:
    assert likeness(read(encoded(seven(at=at))), MNIST_LIKE) > 0.99


@pytest.mark.parametrize("side", [60, 140, 900, 3000])
def test_how_large_it_is_does_not_matter(side: int) -> None:
    digit = digits.read(encoded(seven(side)), max_pixels=10_000_000)
    # MNIST places by whole pixels, so a hair's difference in mass may move it by one;
    # the smallest drawing is coarse itself
    steps = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    moved = [np.roll(square(digit), step, axis=(0, 1)).reshape(784) for step in steps]
    assert max(np.corrcoef(pixels, MNIST_LIKE.pixels)[0, 1] for pixels in moved) > 0.93


@pytest.mark.parametrize(("ink", "paper"), [(255, 0), (200, 40), (30, 200), (90, 160)])
def test_neither_do_polarity_and_contrast(ink: int, paper: int) -> None:
    assert likeness(read(encoded(seven(ink=ink, paper=paper))), MNIST_LIKE) > 0.99


@pytest.mark.parametrize("mode", ["auto", "none"])
@pytest.mark.parametrize("form", ["L", "RGB", "RGBA", "P", "I;16"])
def test_an_mnist_image_comes_back_untouched(form: str, mode: digits.Mode) -> None:
    grey = seven(28, ink=251, paper=0, at=CENTRED)
    pixels = np.asarray(grey)
    if form == "I;16":
        grey = Image.fromarray(pixels.astype(np.uint16) * 257)
    digit = read(encoded(grey if form == "I;16" else grey.convert(form)), mode)
    assert (digit.pixels == pixels.reshape(784)).all()
    assert digit.pixels.dtype == np.uint8


def test_28_by_28_on_a_light_border_is_only_inverted() -> None:
    picture = seven(28, at=CENTRED)
    pixels = np.asarray(picture).reshape(784)
    assert (read(encoded(picture)).pixels == 255 - pixels).all()
    assert (read(encoded(picture), "none").pixels == pixels).all()


ELSEWHERE = [(0.1, 0.1), (0.3, 0.08), (0.55, 0.4)]


@pytest.mark.parametrize("is_light", [False, True])
@pytest.mark.parametrize("at", ELSEWHERE)
def test_28_by_28_that_lies_elsewhere_is_moved(at: tuple[float, float], is_light: bool) -> None:
    picture = np.asarray(seven(28, ink=250, paper=0, at=at))
    digit = read(encoded(Image.fromarray(255 - picture if is_light else picture)))
    pixels = square(digit)
    assert sorted(digit.pixels.tolist()) == sorted(picture.ravel().tolist())  # as it is
    rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
    assert digit.warnings == ()
    place = [int(value) for value in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)]
    assert list(digit.box or ()) == place
    for axis in (0, 1):
        profile = pixels.sum(axis=1 - axis)
        assert abs(profile @ np.arange(28) / profile.sum() - 14) <= 0.5
    as_before = digits.prepare(picture, version="2").pixels
    assert sorted(as_before.tolist()) != sorted(picture.ravel().tolist())


def test_28_by_28_stays_inside_when_it_is_moved() -> None:
    picture = np.zeros((28, 28), np.uint8)
    picture[2:25, 1:4] = 200  # 23 high, and all its mass above
    picture[2:6, 1:14] = 200
    moved = digits.prepare(picture).pixels.reshape(28, 28)
    assert np.flatnonzero(moved.any(axis=1)).tolist() == list(range(5, 28))
    assert moved.sum() == picture.sum()


@pytest.mark.parametrize("at", [(0.0, 0.05), (0.3, 0.0), (0.65, 0.4)])
def test_28_by_28_that_may_be_cut_off_is_moved_and_said_to_touch(at: tuple[float, float]) -> None:
    picture = np.asarray(seven(28, ink=255, paper=0, at=at))
    digit = read(encoded(Image.fromarray(picture)))
    assert digit.warnings == ("touches_edge",)
    assert sorted(digit.pixels.tolist()) == sorted(picture.ravel().tolist())  # as it is
    columns, rows = (np.flatnonzero(square(digit).any(axis=axis)) for axis in (0, 1))
    assert min(columns[0], rows[0]) > 0
    drawn_anew = digits.prepare(picture, version="3").pixels.reshape(28, 28)
    assert max(map(np.ptp, np.nonzero(drawn_anew))) + 1 == 20


def test_28_by_28_of_another_size_is_normalised() -> None:
    small = np.zeros((28, 28), np.uint8)
    small[4:14, 4:14] = np.asarray(seven(28, ink=255, paper=0, at=CENTRED).resize((10, 10)))
    pixels = digits.prepare(small).pixels.reshape(28, 28)
    assert max(map(np.ptp, np.nonzero(pixels))) + 1 == 20


def test_mode_mnist_normalises_even_28_by_28() -> None:
    shifted = seven(28, ink=255, paper=0, at=(0.05, 0.05))
    pixels = square(read(encoded(shifted), "mnist"))
    assert abs(pixels.sum(axis=1) @ np.arange(28) / pixels.sum() - 14) <= 0.5


@pytest.mark.parametrize("transposition", range(1, 9))
def test_exif_orientation_is_undone(transposition: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = seven().transpose(undo[transposition]) if transposition in undo else seven()
    exif = Image.Exif()
    exif[0x0112] = transposition
    for kind in ("PNG", "JPEG", "WEBP"):
        assert likeness(read(encoded(turned, kind, exif=exif)), MNIST_LIKE) > 0.99, kind


def inked(colour: tuple[int, int, int]) -> Image.Image:
    """Ink of one colour on nothing."""
    picture = Image.new("RGBA", (280, 280), (*colour, 0))
    picture.putalpha(seven(ink=255, paper=0))
    return picture


FORMS = {
    "1 bit": encoded(seven().convert("1")),
    "palette": encoded(seven().convert("RGB").quantize(4)),
    "palette with transparency": encoded(inked((0, 0, 0)).quantize(4)),
    "16-bit grey": encoded(Image.fromarray(np.asarray(seven(ink=9, paper=201)).astype(np.uint16) * 257)),
    "grey with alpha": encoded(inked((0, 0, 0)).convert("LA")),
    "black ink on nothing": encoded(inked((0, 0, 0))),
    "white ink on nothing": encoded(inked((255, 255, 255))),
    "blue ink on nothing, WebP": encoded(inked((20, 40, 200)), "WEBP", lossless=True),
    "opaque RGBA": encoded(seven().convert("RGBA")),
    "a colour that is transparent": encoded(seven(), transparency=255),
    "JPEG": encoded(seven(), "JPEG"),
    "progressive JPEG": encoded(seven().convert("RGB"), "JPEG", progressive=True),
    "CMYK JPEG": encoded(seven().convert("RGB").convert("CMYK"), "JPEG"),
    "WebP": encoded(seven(), "WEBP"),
    "lossless WebP": encoded(seven(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_picture_reads_alike(form: str) -> None:
    assert likeness(read(FORMS[form]), MNIST_LIKE) > 0.99


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, interlaced: int = 0) -> bytes:
    """A grey PNG written by hand: `rows` with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_an_interlaced_png_is_read() -> None:
    pixels = np.asarray(seven(28, ink=255, paper=0, at=CENTRED))
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = b"".join(
        b"\0" + row.tobytes() for y, x, down, across in passes for row in pixels[y::down, x::across]
    )
    assert (read(png(28, 28, rows, interlaced=1)).pixels == pixels.reshape(784)).all()


@pytest.mark.parametrize("level", [0, 100, 128, 255])
@pytest.mark.parametrize("side", [1, 28, 300])
def test_a_blank_picture_is_said_to_be_blank(level: int, side: int) -> None:
    for mode in ("auto", "mnist"):
        digit = digits.read(encoded(Image.new("L", (side, side), level)), mode=mode, max_pixels=LIMIT)
        assert digit.warnings == ("blank",)
        assert not digit.pixels.any()
    assert "blank" in read(encoded(Image.new("L", (side, side), level)), "none").warnings


def test_a_transparent_picture_is_blank() -> None:
    assert read(encoded(Image.new("RGBA", (50, 50)))).warnings == ("blank",)


def test_faint_ink_and_cut_off_ink_are_told() -> None:
    assert read(encoded(seven(ink=200, paper=240))).warnings == ("low_contrast",)
    assert read(encoded(seven(at=(0.3, -0.2)))).warnings == ("touches_edge",)


@pytest.mark.parametrize(("width", "height"), [(1, 2), (2, 1), (1, 5000), (5000, 1), (3, 700), (28, 27)])
def test_odd_shapes_are_read(width: int, height: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    for mode in ("auto", "mnist", "none"):
        assert digits.read(encoded(Image.fromarray(noise)), mode=mode, max_pixels=LIMIT).pixels.shape == (
            784,
        )


def test_a_hairline_in_a_large_picture_is_not_lost() -> None:
    picture = Image.new("L", (1000, 1000), 255)
    ImageDraw.Draw(picture).line([(5, 5), (5, 990), (990, 990)], fill=235)
    digit = read(encoded(picture))
    assert digit.pixels.max() == 255
    assert digit.warnings == ("low_contrast",)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (b"", "nothing"),
        (b"hello, digits", "text"),
        (b'{"images": []}', "text"),
        (encoded(seven(), "GIF"), "GIF"),
        (encoded(seven(), "BMP"), "BMP"),
        (encoded(seven(), "TIFF"), "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\x07\x99\xff\x00", "unknown bytes"),
        (b"RIFF\0\0\0\0WAVE", "unknown bytes"),
    ],
)
def test_other_kinds_are_refused_by_name(image: bytes, found: str) -> None:
    with pytest.raises(UnsupportedMedia, match=f"found {found}.*send PNG, JPEG or WebP") as refusal:
        read(image)
    assert refusal.value.code == "unsupported_image"


def webp(size: tuple[int, int]) -> bytes:
    width, height = (side - 1 for side in size)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    body += width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(size: tuple[int, int]) -> bytes:
    image = encoded(Image.new("L", (8, 8)), "JPEG")
    at = image.index(b"\xff\xc0") + 5
    return image[:at] + struct.pack(">HH", size[1], size[0]) + image[at + 4 :]


@pytest.mark.parametrize(
    "image",
    [
        png(50_000, 50_000, bytes(50_000)),
        png(2**31 - 1, 2**31 - 1, b""),
        webp((16_383, 16_383)),
        jpeg((65_000, 65_000)),
        encoded(Image.new("1", (1001, 1000))),
        encoded(Image.new("L", (1001, 1000)), "WEBP"),
        encoded(Image.new("L", (1001, 1000)), "WEBP", lossless=True),
    ],
)
def test_a_huge_picture_is_refused_before_it_is_decoded(image: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=r"\d+ x \d+ = .*the limit is 1,000,000") as refusal:
            read(image)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert refusal.value.code == "image_too_large"


def test_pillows_own_limit_warns_nobody() -> None:
    image = encoded(Image.new("L", (10_000, 9_000)))
    assert digits.read(image, max_pixels=100_000_000).warnings == ("blank",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    whole = encoded(seven(), kind)
    for length in (12, 20, 30, len(whole) // 2):
        with pytest.raises(Invalid, match="cannot be decoded") as refusal:
            read(whole[:length])
        assert refusal.value.code == "corrupt_image"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animated_picture_is_refused(kind: str) -> None:
    frames = [seven(at=(0.1, 0.1)), seven(at=(0.3, 0.3))]
    with pytest.raises(Invalid) as refusal:
        read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert refusal.value.code == "several_frames"


def test_damaged_exif_spoils_no_picture() -> None:
    image = encoded(seven(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert likeness(read(image), MNIST_LIKE) > 0.99


def outcome(image: bytes, mode: digits.Mode = "auto") -> None:
    try:
        digit = read(image, mode)
    except ServiceError as error:
        assert error.status in (413, 415, 422)  # noqa: PT017  any of these will do
    else:
        assert digit.pixels.shape == (784,)
        assert digit.pixels.dtype == np.uint8


MODES: st.SearchStrategy[digits.Mode] = st.sampled_from(("auto", "mnist", "none"))


@given(
    image=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", webp((9, 9))]),
)
def test_bytes_of_any_kind_never_crash_it(image: bytes, head: bytes) -> None:
    outcome(head + image)


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    mutations=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12),
    mode=MODES,
)
def test_a_mutated_picture_never_crashes_it(
    form: str, mutations: list[tuple[int, int]], mode: digits.Mode
) -> None:
    image = bytearray(FORMS[form])
    for at, value in mutations:
        image[at % len(image)] = value
    outcome(bytes(image), mode)


@settings(deadline=None)
@given(
    data=st.binary(min_size=1, max_size=200),
    width=st.integers(1, 40),
    depth=st.sampled_from([1, 2, 4, 8, 16]),
    mode=MODES,
)
def test_any_pixels_in_a_sound_png_are_read(data: bytes, width: int, depth: int, mode: digits.Mode) -> None:
    stride = (width * depth + 7) // 8
    rows = [data[start : start + stride] for start in range(0, len(data), stride)]
    image = png(width, len(rows), b"".join(b"\0" + row.ljust(stride, b"\0") for row in rows), depth=depth)
    assert read(image, mode).pixels.shape == (784,)


def test_pixels_come_flat_or_in_rows() -> None:
    flat = [value % 256 for value in range(784)]
    rows = [flat[start : start + 28] for start in range(0, 784, 28)]
    pixels = digits.from_pixels([flat, rows, tuple(flat)])
    assert pixels.shape == (3, 784)
    assert pixels.dtype == np.float32
    assert (pixels == np.array(flat)).all()
    assert digits.from_pixels([]).shape == (0, 784)


def test_pixels_are_not_rounded() -> None:
    assert (digits.from_pixels([[0.25] * 784]) == 0.25).all()
    assert (digits.from_pixels([[0.5] * 784], scale="unit") == 127.5).all()
    assert (digits.from_pixels([[1] * 784], scale="unit") == 255).all()


def blank(**pixels: object) -> list[object]:
    """784 zeros but for `p7=...`."""
    image: list[object] = [0] * 784
    for at, value in pixels.items():
        image[int(at[1:])] = value
    return image


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ([0] * 783, "got 783, expected 784 or 28 rows of 28"),
        ([], "got 0, expected 784 or 28 rows of 28"),
        ([[0] * 28] * 27, "got 27 rows, expected 784 or 28 rows of 28"),
        ([*[[0] * 28] * 27, [0] * 29], "row 27 has 29, expected 784 or 28 rows of 28"),
        ([*[[0] * 28] * 27, 0], "row 27 has a number, expected 784 or 28 rows of 28"),
        ("0" * 784, "is text, expected 784 or 28 rows of 28 numbers"),
        (None, "is null, expected 784 or 28 rows of 28 numbers"),
        (blank(p7="1"), "pixel 7 is text, expected a number"),
        (blank(p7=True), "pixel 7 is a boolean, expected a number"),
        (blank(p7=None), "pixel 7 is null, expected a number"),
        (blank(p7={}), "pixel 7 is an object, expected a number"),
        ([[[0]] * 28] * 28, "pixel 0 is a list, expected a number"),
        (blank(p7=float("nan")), "pixel 7 is nan, expected 0 to 255"),
        (blank(p7=float("inf")), "pixel 7 is inf, expected 0 to 255"),
        (blank(p7=-1), "pixel 7 is -1, expected 0 to 255"),
        (blank(p7=256), "pixel 7 is 256, expected 0 to 255"),
        (blank(p7=10**400), "has a number beyond all range, expected 0 to 255"),
    ],
)
def test_bad_pixels_are_pointed_at(image: object, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        digits.from_pixels([blank(), blank(), image])
    assert refusal.value.code == "bad_pixels"
    assert [(error.pointer, error.detail) for error in refusal.value.errors] == [("#/images/2", said)]


def test_bytes_sent_as_unit_are_told_the_remedy() -> None:
    with pytest.raises(Invalid) as refusal:
        digits.from_pixels([blank(p3=255)], scale="unit")
    assert refusal.value.errors[0].detail == 'pixel 3 is 255, expected 0 to 1, or set "scale": "byte"'


def test_every_bad_image_is_named_up_to_a_number() -> None:
    with pytest.raises(Invalid) as refusal:
        digits.from_pixels([blank(), [], blank(p0=-1)])
    assert [error.pointer for error in refusal.value.errors] == ["#/images/1", "#/images/2"]
    with pytest.raises(Invalid) as refusal:
        digits.from_pixels([[]] * 4096)
    assert len(refusal.value.errors) == digits.MAX_FIELD_ERRORS


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))


@given(st.lists(st.one_of(values, st.lists(values, max_size=30), st.just([[0] * 28] * 28)), max_size=4))
def test_pixels_of_any_kind_never_crash_it(images: list[object]) -> None:
    try:
        assert digits.from_pixels(images).shape == (len(images), 784)
    except Invalid as error:
        assert error.errors  # noqa: PT017  a refusal says why
