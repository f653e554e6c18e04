"""What a spec makes of a dataset: arrays, split as it says, of files or of the lecture's simulation."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.catalog import CATALOG
from service.data import simulated
from service.data.datasets import Dataset, WrongUploads, load
from service.data.uploaded import Uploaded
from service.spec import DatasetSpec
from tests.unit.conftest import NAMES, TEST, TRAIN, Files, hashes, write


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    return write(tmp_path / "given", files)


def small(folder: Path, **spec: int) -> Dataset:
    return load(DatasetSpec.model_validate(spec), cache_dir=folder / "cache", data_dir=folder)


def test_types_and_shapes(folder: Path, files: Files) -> None:
    data = small(folder)
    assert data.train_inputs.shape == (TRAIN, 784)
    assert data.train_inputs.tobytes() == files[NAMES[0]][16:]
    assert data.validation_inputs.shape == (0, 784)
    assert data.validation_targets.shape == (0,)
    assert data.test_inputs.shape == (TEST, 784)
    assert data.train_inputs.dtype == data.test_inputs.dtype == np.uint8
    assert data.train_targets.dtype == data.test_targets.dtype == np.int64
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes(files).items()))
    assert data.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_held_out_are_those_of_the_split_seed(folder: Path) -> None:
    whole, split = small(folder), small(folder, examples=15, validation=4, split_seed=3)
    held_out = sorted(np.random.default_rng(3).permutation(15)[:4].tolist())
    kept = [index for index in range(15) if index not in held_out]
    assert (split.validation_inputs == whole.train_inputs[held_out]).all()
    assert (split.validation_targets == whole.train_targets[held_out]).all()
    assert (split.train_inputs == whole.train_inputs[kept]).all()
    assert (split.train_targets == whole.train_targets[kept]).all()
    assert (split.test_inputs == whole.test_inputs).all()
    assert split.sha256 == whole.sha256


def test_arrays_are_decoded_once_and_read_only(folder: Path) -> None:
    data = small(folder, validation=5)
    assert data.test_inputs is small(folder).test_inputs
    for part in (
        data.train_inputs,
        data.train_targets,
        data.validation_inputs,
        data.test_inputs,
        data.test_targets,
    ):
        assert not part.flags.writeable


def test_the_real_mnist_has_the_pinned_hashes(tmp_path: Path) -> None:
    folder = os.environ.get("NUMERAL_DATA_DIR")
    if not folder:
        pytest.skip("NUMERAL_DATA_DIR is not set")
    data = load(DatasetSpec(), cache_dir=tmp_path, data_dir=Path(folder))
    assert data.sha256 == "474311efcf1fd213e64768801dc6195673bffb8385179d6c55cd8748b9e2e8ca"
    assert data.train_inputs.shape == (60_000, 784)
    assert data.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(data.train_inputs.mean()) / 255, 4) == 0.1307


def drawn(**spec: float) -> Dataset:
    return load(
        DatasetSpec.model_validate({"name": "simulated", **spec}), cache_dir=Path("unused"), data_dir=None
    )


def test_simulated_is_the_lectures() -> None:
    data = drawn()
    assert data.train_inputs.shape == data.train_targets.shape == (1000, 1)
    assert data.test_inputs.shape == data.test_targets.shape == (CATALOG["simulated"].test_examples, 1)
    assert data.train_inputs.dtype == data.test_targets.dtype == np.float32
    noise = data.train_targets - simulated.true_function(data.train_inputs.astype(np.float64))
    assert abs(noise.std() - 0.5) < 0.05
    assert (data.test_targets == simulated.true_function(simulated.grid()).astype(np.float32)).all()


def test_simulated_without_noise_is_the_true_function() -> None:
    data = drawn(noise=0.0, examples=50)
    truth = simulated.true_function(data.train_inputs.astype(np.float64))
    assert np.abs(data.train_targets - truth).max() < 1e-4


def test_the_split_seed_only_chooses_which_points_are_held_out() -> None:
    one, other = drawn(validation=300, split_seed=1), drawn(validation=300, split_seed=2)
    assert one.train_inputs.shape == (700, 1)
    assert (one.validation_inputs != other.validation_inputs).any()
    assert one.sha256 == other.sha256 != drawn(noise=0.1).sha256
    for data in (one, other):
        points = np.concatenate([data.train_inputs, data.validation_inputs])
        assert set(points.ravel()) == set(drawn().train_inputs.ravel())


def test_the_true_function_and_the_grid() -> None:
    grid = simulated.grid()
    assert grid.shape == (315, 1)
    assert grid[0, 0] == 0
    assert grid[-1, 0] == 3.14
    at = np.array([0.0, 1.0, 2.0])
    expected = [np.sin(x**x) / 2 ** ((x**x - np.pi / 2) / np.pi) for x in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(simulated.true_function(at), expected, rtol=1e-12)
    np.testing.assert_allclose(expected, [0.9544, 0.9544, -0.4428], atol=1e-4)


def test_simulate_draws_by_its_seed() -> None:
    x, y = simulated.simulate(100, seed=1)
    assert x.shape == y.shape == (100, 1)
    assert 0 <= x.min() <= x.max() < np.pi
    assert (simulated.simulate(100, seed=1)[1] == y).all()
    assert (simulated.simulate(100, seed=2)[0] != x).all()


def test_neither_module_imports_torch() -> None:
    code = "import sys, service.data.datasets, service.data.digits; print({'torch', 'torchvision', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_uploads_follow_the_dataset_and_leave_its_split_alone(folder: Path) -> None:
    generator = np.random.default_rng(7)
    images, labels = generator.integers(0, 256, (6, 784), dtype=np.uint8), generator.integers(0, 10, 6)
    added = Uploaded.of((images[:4], labels[:4]), (images[4:], labels[4:]))
    told = {"id": f"ds_{0:032}", "sha256": added.sha256, "train_examples": 4, "test_examples": 2}

    def with_uploads(**spec: Any) -> Dataset:
        asked = DatasetSpec.model_validate(spec | {"uploads": [told]})
        data = load(asked, cache_dir=folder / "cache", data_dir=folder, uploads=[added])
        assert len(data.train_inputs) == asked.train_examples
        assert len(data.test_inputs) == asked.test_examples
        return data

    plain, more = small(folder, examples=15, validation=5), with_uploads(examples=15, validation=5)
    assert (more.train_inputs == np.concatenate([plain.train_inputs, images[:4]])).all()
    assert (more.train_targets == np.concatenate([plain.train_targets, labels[:4]])).all()
    assert (more.validation_inputs == plain.validation_inputs).all()
    assert (more.test_inputs == plain.test_inputs).all()
    alone = with_uploads(name="uploaded", validation=1)
    assert len(alone.validation_inputs) == 1
    assert (alone.test_inputs == images[4:]).all()
    assert len({plain.sha256, more.sha256, alone.sha256}) == 3
    with pytest.raises(WrongUploads):
        load(DatasetSpec.model_validate({"uploads": [told]}), cache_dir=folder / "cache", data_dir=folder)
