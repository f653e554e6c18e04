"""What is learnt of a teacher: its softened answers about the very images, and the labels for the rest."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service import checkpoints, network
from service.checkpoints import Snapshot
from service.network import Network
from service.spec import TrainingSpec
from tests.unit.test_training import CPU, images, spec_of, stored
from worker import committee, training
from worker import device as devices
from worker.batches import Batches
from worker.committee import fit
from worker.crew import ALONE
from worker.teacher import Teacher
from worker.training import Report

IMAGES = images()
PIXELS = torch.from_numpy(IMAGES.train_inputs.copy())
LABELS = torch.from_numpy(IMAGES.train_targets.copy())
MODEL = "model_" + "0" * 32


pytestmark = pytest.mark.usefixtures("one_thread")


def taught(distillation: dict[str, Any] | None = None, **fields: Any) -> TrainingSpec:
    return spec_of(distillation={"teacher": MODEL, **(distillation or {})}, **fields)


def served(spec: TrainingSpec) -> Network:
    """The network of a job of that spec, from its weights file."""
    *_, last = fit(spec, images(), device=CPU)
    return network.rebuild(checkpoints.encode_weights(last.snapshot(), spec, preprocessing="1"))


@pytest.fixture(scope="module")
def alone() -> Network:
    """Sees its inputs otherwise than those that learn from it."""
    symmetric = {"hidden_widths": [16], "input_normalization": "symmetric"}
    return served(spec_of(network=symmetric, epochs=8))


@pytest.fixture(scope="module")
def several() -> Network:
    return served(spec_of(committee={"members": 3}, epochs=8))


@pytest.fixture(params=["alone", "several"])
def teacher(request: pytest.FixtureRequest) -> Network:
    found: Network = request.getfixturevalue(request.param)
    return found


def expected(teacher: Network, pixels: Tensor, labels: Tensor, share: float, temperature: float) -> Tensor:
    with torch.no_grad():
        answers = torch.softmax(teacher(pixels) / temperature, 1)
    return share * answers + (1 - share) * torch.eye(10)[labels]


@pytest.mark.parametrize(("share", "temperature"), [(0.9, 2.0), (1.0, 1.0), (0.0, 5.0), (0.3, 0.5)])
def test_what_is_learnt(teacher: Network, share: float, temperature: float) -> None:
    spec = taught({"share": share, "temperature": temperature})
    found = Teacher(spec, teacher, CPU).targets(PIXELS, LABELS)
    assert (found.dtype, found.shape) == (torch.float32, (90, 10))
    torch.testing.assert_close(found, expected(teacher, PIXELS, LABELS, share, temperature))
    torch.testing.assert_close(found.sum(1), torch.ones(90))


def test_labels_are_smoothed_and_the_teacher_is_not(alone: Network) -> None:
    smoothed = taught({"share": 0.5}, regularization={"label_smoothing": 0.2})
    plain = Teacher(taught({"share": 0.5}), alone, CPU).targets(PIXELS, LABELS)
    found = Teacher(smoothed, alone, CPU).targets(PIXELS, LABELS)
    one_hot = torch.eye(10)[LABELS]
    torch.testing.assert_close(found - plain, 0.5 * (one_hot * 0.8 + 0.02 - one_hot))


def test_it_answers_in_the_precision_of_the_step_and_stays_as_it_is(teacher: Network) -> None:
    before = {name: array.copy() for name, array in network.arrays_of(teacher).items()}
    rounded = Teacher(taught(precision="bfloat16"), teacher, CPU).targets(PIXELS, LABELS)
    exact = Teacher(taught(), teacher, CPU).targets(PIXELS, LABELS)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)
    assert not torch.equal(rounded, exact)
    assert all(np.array_equal(before[name], array) for name, array in network.arrays_of(teacher).items())


def taken(spec: TrainingSpec, teacher: Network, **fields: Any) -> list[tuple[Report, Snapshot]]:
    reports = fit(spec, images(), device=CPU, teacher=teacher, **fields)
    return [(report, report.snapshot()) for report in reports]


def test_the_first_step_is_that_of_torch(teacher: Network) -> None:
    """Also where every step takes the same batch, about which the teacher is asked once."""
    wanted = expected(teacher, PIXELS, LABELS, 0.9, 2.0)
    spec = taught(batch_size="full")
    loss = torch.nn.functional.cross_entropy(network.build(spec)(PIXELS), wanted)
    assert taken(spec, teacher)[1][0].loss == pytest.approx(loss.item(), rel=1e-6)


def test_the_teacher_is_asked_about_the_images_that_are_learnt(
    alone: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deformed as the student sees them, on the scale that they are stored in."""
    asked: list[Tensor] = []
    targets = Teacher.targets

    def noted(self: Teacher, pixels: Tensor, labels: Tensor) -> Tensor:
        asked.append(pixels.clone())
        return targets(self, pixels, labels)

    monkeypatch.setattr(Teacher, "targets", noted)
    spec = taught(augmentation={"rotation": 20, "elastic": 1})
    data = devices.place(images(), CPU)
    built = network.build(spec)
    batches = Batches(spec, data.train, built, ALONE, Teacher(spec, alone, CPU))
    seen = [batches.at(step)[0].clone() for step in range(1, 4)]
    for inputs, pixels in zip(seen, asked, strict=True):
        torch.testing.assert_close(inputs, built.normalize(pixels), rtol=0, atol=0)
        assert 100 < pixels.max() <= 255


def test_a_teacher_without_a_share_changes_nothing(alone: Network) -> None:
    augmented: dict[str, Any] = {"augmentation": {"rotation": 10}}
    *_, (_, mine) = taken(taught({"share": 0.0}, **augmented), alone)
    *_, plain = fit(spec_of(**augmented), images(), device=CPU)
    for name, array in plain.snapshot().weights.items():
        np.testing.assert_allclose(mine.weights[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"batch_size": "full", "epochs": 20},
        {"augmentation": {"rotation": 15, "elastic": 1}, "precision": "bfloat16", "averaging": {}},
        {"network": {"hidden_widths": [16], "normalization": "batch"}},
        {"committee": {"members": 2}, "augmentation": {"shift": 1}},
    ],
)
def test_a_resumed_run_ends_with_the_same_bytes(teacher: Network, fields: dict[str, Any]) -> None:
    spec = taught(**fields)
    reports = taken(spec, teacher)
    (_, middle), (final, wanted) = reports[7], reports[-1]
    again = taken(spec, teacher, resume=stored(middle, spec))
    assert again[-1][0].metrics == final.metrics
    assert checkpoints.encode(again[-1][1].weights, {}) == checkpoints.encode(wanted.weights, {})
    assert checkpoints.encode(again[-1][1].state, {}) == checkpoints.encode(wanted.state, {})


def test_a_student_comes_to_answer_as_its_teacher_does(several: Network) -> None:
    """Nearer than one that learns from the labels."""
    test = torch.from_numpy(IMAGES.test_inputs.copy())
    recipe: dict[str, Any] = {"epochs": 60}
    student_spec, plain_spec = taught({"share": 1.0, "temperature": 1.0}, **recipe), spec_of(**recipe)
    *_, (_, snapshot) = taken(student_spec, several)
    student = network.rebuild(checkpoints.encode_weights(snapshot, student_spec, preprocessing="1"))
    with torch.no_grad():
        wanted = torch.softmax(several(test), 1)
        distances = [
            (torch.softmax(one(test), 1) - wanted).abs().mean().item()
            for one in (student, served(plain_spec))
        ]
    assert distances[0] < 0.5 * distances[1]


@pytest.mark.parametrize("run", [training.fit, committee.fit])
def test_a_teacher_that_is_missing_or_not_asked_for_is_refused(run: Any, alone: Network) -> None:
    with pytest.raises(ValueError, match="teacher"):
        next(run(taught(), images(), device=CPU))
    with pytest.raises(ValueError, match="teacher"):
        next(run(spec_of(), images(), device=CPU, teacher=alone))
