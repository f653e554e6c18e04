"""Whom `bench.training` races: Numeral's engine, and its peers as their own tutorials use them.

All train the same widths with relu on cross-entropy. The peers do so in float32 with Adam at a constant 0.001,
which is what each tutorial has. A contender is called to prepare (build the network, lay out the data), which
is on nobody's clock; the iterator that it gives then trains one pass over the training set at each `next`,
without looking at the test set.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from service.checkpoints import Snapshot, encode_weights
from service.data.augment import SIDE, Augmenter
from service.data.datasets import Dataset
from service.data.digits import PREPROCESSING_VERSION
from service.presets import PRESETS
from service.serving.inference import NumpyNetwork
from service.spec import TrainingSpec
from worker.committee import fit
from worker.device import place, set_threads, threads_for

LECTURE_BATCH = 10_000
LECTURE_ROTATED = "cmgsnet-rotated-lecture"

Pixels = NDArray[np.uint8]
Labels = NDArray[np.integer[Any]]
Predict = Callable[[Pixels], Labels]


@dataclass(frozen=True)
class Task:
    """What is to be trained, the same for all. `widths` are those of every layer, inputs and outputs included;
    `batch` is that of the peers."""

    dataset: Dataset
    widths: tuple[int, ...]
    batch: int
    device: torch.device
    seed: int


@dataclass(frozen=True)
class Learnt:
    """Where a contender stands after a pass. `predict` gives the labels (n,) of pixels (n, 784), by the weights
    of this moment, and only until the contender trains on."""

    images: int
    """Trained on since the last pass."""
    predict: Predict


Contender = Callable[[Task], Iterator[Learnt]]


def numeral(task: Task, *, spec: TrainingSpec) -> Iterator[Learnt]:
    """`fit`, as a worker calls it. The predictions are those of the weights file that a worker would store at
    that moment, by the network that the API serves. `fit` takes figures while it trains: of one test image and
    one training image here, so that they cost nothing; a validation set, where the spec holds one out, stays
    on the clock."""
    set_threads(threads_for(spec, torch.get_num_threads()))
    dataset = task.dataset
    unwatched = replace(dataset, test_inputs=dataset.test_inputs[:1], test_targets=dataset.test_targets[:1])
    evaluation = spec.evaluation.model_copy(update={"train_examples": 1, "initial": False})
    spec = spec.model_copy(update={"evaluation": evaluation, "seed": task.seed})
    return _passes_of_fit(spec, unwatched, task.device)


def _passes_of_fit(spec: TrainingSpec, dataset: Dataset, device: torch.device) -> Iterator[Learnt]:
    plan, passed = spec.plan, 0
    for report in fit(spec, place(dataset, device), device=device):
        if report.step % plan.steps_per_pass == 0 or report.outcome is not None:
            images = min(plan.examples, (report.step - passed) * plan.batch)
            _settle(device)
            yield Learnt(images, partial(_served, report.snapshot, spec))
            passed = report.step


def _served(snapshot: Callable[[], Snapshot], spec: TrainingSpec, pixels: Pixels) -> Labels:
    weights = encode_weights(snapshot(), spec, preprocessing=PREPROCESSING_VERSION)
    labels: Labels = NumpyNetwork.from_checkpoint(weights).logits(pixels).argmax(axis=1)
    return labels


class TorchvisionImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The training images as `torchvision.datasets.MNIST(..., transform=ToTensor())` gives them: one at a time,
    through a PIL image."""

    def __init__(self, inputs: Pixels, targets: Labels) -> None:
        self._images = torch.tensor(inputs).view(-1, SIDE, SIDE)
        self._targets = torch.tensor(targets)
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self._images[index].numpy())
        return self._transform(image), int(self._targets[index])


def pytorch_tutorial(task: Task) -> Iterator[Learnt]:
    """The loop of PyTorch's quickstart, with Adam: torchvision's dataset, a DataLoader that shuffles."""
    images = TorchvisionImages(task.dataset.train_inputs, task.dataset.train_targets)
    loader = DataLoader(images, batch_size=task.batch, shuffle=True)
    return _plain_loop(task, lambda: loader)


def pytorch_tensors(task: Task) -> Iterator[Learnt]:
    """The same loop by somebody who knows that the data fits in memory: no DataLoader, the batches are indexed
    from one float32 tensor on the device."""
    inputs = _unit(torch.tensor(task.dataset.train_inputs, device=task.device))
    targets = torch.tensor(task.dataset.train_targets, device=task.device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.split(torch.randperm(len(inputs), device=task.device), task.batch):
            yield inputs[rows], targets[rows]

    return _plain_loop(task, batches)


def lecture(task: Task) -> Iterator[Learnt]:
    """The lecture's recipe for its deep net: fixed batches of 10,000, over and over."""
    return _lecture_loop(task, [torch.tensor(task.dataset.train_inputs, device=task.device)])


def lecture_rotated(task: Task) -> Iterator[Learnt]:
    """The same on ten rotated copies of each image, drawn beforehand, a copy a pass."""
    block = PRESETS[LECTURE_ROTATED].spec.augmentation
    assert block is not None
    assert block.copies is not None
    pixels = torch.tensor(task.dataset.train_inputs, device=task.device)
    labels = torch.tensor(task.dataset.train_targets)
    rows = torch.arange(len(pixels), device=task.device)
    augmenter = Augmenter(block, labels, seed=task.seed, device=task.device)
    copies = (augmenter.deform(pixels, rows, variant=number) for number in range(block.copies))
    return _lecture_loop(task, [copy.to(torch.uint8) for copy in copies])


def _lecture_loop(task: Task, copies: Iterable[Tensor]) -> Iterator[Learnt]:
    """The copies lie there as bytes, since ten in float32 take 2 GB; a batch is made of them within a
    hundredth of its step."""
    targets = torch.tensor(task.dataset.train_targets, device=task.device)
    labels = torch.split(targets, LECTURE_BATCH)
    turns = cycle([torch.split(copy, LECTURE_BATCH) for copy in copies])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return ((_unit(inputs), targets) for inputs, targets in zip(next(turns), labels, strict=True))

    return _plain_loop(task, batches)


def _plain_loop(task: Task, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> Iterator[Learnt]:
    """The training loop that every tutorial of PyTorch has. `batches` gives those of the next pass."""
    torch.manual_seed(task.seed)
    network = _network(task.widths).to(task.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = nn.CrossEntropyLoss()

    def train() -> None:
        for inputs, targets in batches():
            loss = loss_function(network(inputs.to(task.device)), targets.to(task.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _settle(task.device)

    @torch.no_grad()
    def predict(pixels: Pixels) -> Labels:
        labels: Labels = network(_unit(torch.tensor(pixels, device=task.device))).argmax(1).cpu().numpy()
        return labels

    return _over_and_over(train, predict, len(task.dataset.train_inputs))


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def keras(task: Task) -> Iterator[Learnt]:
    """Keras 3 on PyTorch, by `compile` and `fit` as its introduction has them."""
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": task.device.type}  # read at the import
    from keras import Input, Sequential, layers, utils

    utils.set_random_seed(task.seed)
    hidden = [layers.Dense(width, activation="relu") for width in task.widths[1:-1]]
    output = layers.Dense(task.widths[-1], activation="softmax")
    model = Sequential([Input((task.widths[0],)), *hidden, output])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    inputs, targets = _unit_array(task.dataset.train_inputs), task.dataset.train_targets

    def train() -> None:
        model.fit(inputs, targets, batch_size=task.batch, epochs=1, verbose=0)

    def predict(pixels: Pixels) -> Labels:
        labels: Labels = model.predict(_unit_array(pixels), batch_size=1000, verbose=0).argmax(axis=1)
        return labels

    return _over_and_over(train, predict, len(inputs))


def scikit_learn(task: Task) -> Iterator[Learnt]:
    """MLPClassifier as it comes (its Adam and its L2 of 0.0001), in float32, a pass at each `partial_fit`.
    It has no GPU."""
    from sklearn.neural_network import MLPClassifier

    classifier = MLPClassifier(task.widths[1:-1], batch_size=task.batch, random_state=task.seed)
    inputs, targets = _unit_array(task.dataset.train_inputs), task.dataset.train_targets
    classes = np.arange(task.widths[-1])

    def predict(pixels: Pixels) -> Labels:
        labels: Labels = classifier.predict(_unit_array(pixels))
        return labels

    train = partial(classifier.partial_fit, inputs, targets, classes=classes)
    return _over_and_over(train, predict, len(inputs))


PEERS: dict[str, tuple[Contender, int | None]] = {
    "PyTorch, tutorial": (pytorch_tutorial, None),
    "PyTorch, tensors in memory": (pytorch_tensors, None),
    "lecture's recipe in PyTorch": (lecture, LECTURE_BATCH),
    "lecture's, rotated copies": (lecture_rotated, LECTURE_BATCH),
    "Keras 3 on PyTorch": (keras, None),
    "scikit-learn": (scikit_learn, None),
}
"""Each peer, and its batch size where that is a part of its recipe."""


def _over_and_over(train: Callable[[], object], predict: Predict, images: int) -> Iterator[Learnt]:
    while True:
        train()
        yield Learnt(images, predict)


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _unit_array(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)


def _settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
