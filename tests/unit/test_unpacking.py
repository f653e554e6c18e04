"""A ZIP becomes a dataset in three forms, and whatever is wrong with it is told by the file that is wrong."""

import gzip
import io
from typing import Any

import numpy as np
import pytest

from service.api.data.unpacking import unpacked
from service.data.digits import PREPROCESSING_VERSION
from service.data.uploaded import Malformed, Uploaded, decode
from service.errors import ServiceError
from service.settings import Settings
from tests.archives import examples, of_arrays, of_idx, of_pictures, png, zipped
from tests.unit.conftest import idx_of

SETTINGS = Settings(max_body_bytes=64 * 1024, max_images=50)
TRAIN, TEST = examples(12), examples(5, seed=1)
IMAGES, LABELS = TRAIN
GOOD = idx_of(IMAGES)


def same(found: Uploaded, *, test: bool = True) -> bool:
    wanted = Uploaded.of(
        (IMAGES.reshape(-1, 784), LABELS), (TEST[0].reshape(-1, 784), TEST[1]) if test else None
    )
    return found.sha256 == wanted.sha256


@pytest.mark.parametrize(
    ("data", "source", "preprocessing"),
    [
        (of_idx(TRAIN, TEST), "idx", None),
        (
            of_arrays(
                x_train=IMAGES, y_train=LABELS, x_test=TEST[0].reshape(5, 784), y_test=TEST[1][:, None]
            ),
            "npz",
            None,
        ),
        (of_arrays(images=np.asfortranarray(IMAGES), labels=LABELS.astype(np.uint8)), "npz", None),
    ],
)
def test_forms_hold_the_same(data: bytes, source: str, preprocessing: str | None) -> None:
    found = unpacked(data, SETTINGS, "auto")
    assert (found.source, found.preprocessing) == (source, preprocessing)
    assert same(found.content, test=len(found.content.test_labels) > 0)


def test_pictures_lie_in_folders_by_label() -> None:
    order = np.argsort(LABELS, kind="stable")
    found = unpacked(of_pictures((IMAGES[order], LABELS[order]), TEST), SETTINGS, "none")
    assert (found.source, found.preprocessing) == ("pictures", PREPROCESSING_VERSION)
    assert (found.content.train_labels == LABELS[order]).all()
    assert (found.content.train_images == IMAGES[order].reshape(-1, 784)).all()
    assert (found.content.test_labels == TEST[1]).all()
    assert found.content.classes["test"] == np.bincount(TEST[1], minlength=10).tolist()


def test_stored_bytes_are_read_back_and_damage_is_seen() -> None:
    content = unpacked(of_idx(TRAIN, TEST), SETTINGS, "auto").content
    assert decode(content.bytes).bytes == content.bytes
    for damaged in (b"", content.bytes[:-1], content.bytes.replace(b"test_labels", b"test_lables")):
        with pytest.raises(Malformed):
            decode(damaged)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def claiming(shape: str) -> bytes:
    """A header that promises more than comes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 784


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"\x1f\x8b rest", "unsupported_dataset", "no ZIP"),
        (b"PK\3\4 rest", "corrupt_archive", "cannot be read"),
        (zipped({}), "bad_dataset", "no file"),
        (of_idx((IMAGES, LABELS[:11])), "bad_dataset", "12 images and 11 labels"),
        (of_idx((IMAGES, LABELS + 5)), "bad_dataset", "not one of 0 to 9"),
        (zipped({"train-images-idx3-ubyte": GOOD}), "bad_dataset", "images alone"),
        (zipped({"t10k-images-idx3-ubyte": GOOD, "t10k-labels-idx1-ubyte": idx_of(LABELS.astype(np.uint8))}), "bad_dataset", "nothing to train on"),
        (zipped({"train-images-idx3-ubyte": GOOD[:-1]}), "bad_dataset", "truncated"),
        (zipped({"train-images-idx3-ubyte": GOOD + b"x"}), "bad_dataset", "goes on after"),
        (zipped({"train-images-idx3-ubyte": idx_of(IMAGES[:, :27])}), "bad_dataset", "expected n x 28 x 28"),
        (zipped({"a/train-images-idx3-ubyte": GOOD, "b/train-images.idx3-ubyte": GOOD}), "bad_dataset", "a second time"),
        (zipped({"train-images-idx3-ubyte.gz": b"\x1f\x8b\x08broken"}), "bad_dataset", "decompressed"),
        (of_arrays(x_train=IMAGES.astype(np.float32), y_train=LABELS), "bad_dataset", "float32"),
        (of_arrays(x_train=IMAGES.astype(np.int64), y_train=LABELS), "bad_dataset", "images are uint8"),
        (of_arrays(x_train=IMAGES[:, :27], y_train=LABELS), "bad_dataset", "(n, 28, 28)"),
        (of_arrays(x_train=IMAGES, y_train=LABELS - 5), "bad_dataset", "0 to 9"),
        (of_arrays(x_train=IMAGES, y_train=LABELS, z=LABELS), "bad_dataset", "no array that is known"),
        (of_arrays(x_train=IMAGES[:0], y_train=LABELS[:0]), "bad_dataset", "shape"),
        (zipped({"x_train.npy": pickled()}), "bad_dataset", "object"),
        (zipped({"x_train.npy": b"no array"}), "bad_dataset", "no array of NumPy"),
        (zipped({"x_train.npy": claiming("(10**9, 784)")}), "bad_dataset", "no array of NumPy"),
        (zipped({"x_train.npy": claiming("(1000000000000, 784)")}), "bad_dataset", "asks for"),
        (zipped({"x_train.npy": claiming("(-1, -784)")}), "bad_dataset", "shape"),
        (zipped({"x_train.npy": b"\x93NUMPY\x03\x00" + b"\0" * 200}), "bad_dataset", "no array of NumPy"),
        (zipped({"7/a.png": b"no picture"}), "bad_dataset", "no pictures with a label"),
        (zipped({"seven/a.png": png(IMAGES[0])}), "bad_dataset", "no pictures with a label"),
        (zipped({"a.png": png(IMAGES[0])}), "bad_dataset", "no pictures with a label"),
        (zipped({f"1/{number}.png": png(IMAGES[0]) for number in range(51)}), "too_many_images", "50"),
        (zipped({"train-images-idx3-ubyte": b"\0" * 300_000}), "file_too_large", "unpacks"),
        (zipped({"train-images-idx3-ubyte.gz": gzip.compress(b"\0" * 300_000)}), "archive_too_large", "unpacks"),
        (of_arrays(x_train=np.zeros((300, 784), np.uint8), y_train=np.zeros(30_000, np.int64)), "archive_too_large", "unpacks"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(data: bytes, code: str, said: str) -> None:
    with pytest.raises(ServiceError) as refusal:
        unpacked(data, SETTINGS, "auto")
    assert refusal.value.code == code, refusal.value.detail
    assert said in refusal.value.detail


def test_each_wrong_picture_is_named() -> None:
    files: dict[str, Any] = {"3/good.png": png(IMAGES[0]), "3/bad.png": b"x", "x/good.png": png(IMAGES[0])}
    with pytest.raises(ServiceError) as refusal:
        unpacked(zipped(files), SETTINGS, "auto")
    assert [item.pointer for item in refusal.value.errors] == ["#/3~1bad.png", "#/x~1good.png"]
