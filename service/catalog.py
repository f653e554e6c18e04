"""What each dataset is, known without loading it: sizes, task, licence. No torch, no numpy."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "regression"]
BuiltIn = Literal["mnist", "fashion-mnist", "kmnist", "emnist-digits", "simulated"]
DatasetName = Literal[BuiltIn, "uploaded"]


@dataclass(frozen=True)
class DatasetCard:
    """The facts of a dataset that a spec is checked against."""

    name: DatasetName
    title: str
    task: Task
    inputs: int  # numbers an example
    outputs: int  # classes of a classification, targets of a regression
    train_examples: int | None  # None: the spec says how many (`dataset.examples`)
    test_examples: int  # 0 of `uploaded`, which has those of its parts
    licence: str


UPLOADED = "uploaded"
CATALOG: dict[str, DatasetCard] = {
    card.name: card
    for card in (
        DatasetCard(
            "mnist",
            "MNIST handwritten digits (LeCun, Cortes, Burges)",
            "classification",
            784,
            10,
            60_000,
            10_000,
            "CC BY-SA 3.0",
        ),
        DatasetCard(
            "fashion-mnist",
            "Fashion-MNIST articles of clothing (Zalando)",
            "classification",
            784,
            10,
            60_000,
            10_000,
            "MIT",
        ),
        DatasetCard(
            "kmnist",
            "Kuzushiji-MNIST cursive Japanese (CODH)",
            "classification",
            784,
            10,
            60_000,
            10_000,
            "CC BY-SA 4.0",
        ),
        DatasetCard(
            "emnist-digits",
            "EMNIST digits (Cohen, Afshar, Tapson, van Schaik)",
            "classification",
            784,
            10,
            240_000,
            40_000,
            "NIST public domain",
        ),
        DatasetCard(
            "simulated",
            "sin(x^x) / 2^((x^x - pi/2) / pi) on [0, pi] with normal noise (the lecture's)",
            "regression",
            1,
            1,
            None,
            315,
            "none needed",
        ),
        DatasetCard(
            "uploaded", "What `uploads` names, alone", "classification", 784, 10, 0, 0, "its owner's"
        ),
    )
}
