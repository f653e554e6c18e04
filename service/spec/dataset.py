"""What is learnt from."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from service import mistakes
from service.catalog import CATALOG, UPLOADED, DatasetCard, DatasetName
from service.spec.part import Part

MAX_UPLOADS = 16
MAX_UPLOADED = 10_000_000  # examples; what a body may hold is less


class Upload(Part):
    """A dataset that was uploaded. In a request its id alone stands for it: the service fills in what it is."""

    id: Annotated[str, Field(pattern=r"^ds_[0-9a-f]{32}$")]
    """Id of an uploaded dataset."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its content, which a worker compares."""
    train_examples: int = Field(ge=1, le=MAX_UPLOADED)
    """Examples to train on."""
    test_examples: int = Field(ge=0, le=MAX_UPLOADED)
    """Examples to test with; they are used where `dataset.name` is `uploaded`."""


class DatasetSpec(Part):
    """What is learnt from."""

    name: DatasetName = "mnist"
    """Dataset, one of those that `GET /v1/datasets` lists; or `uploaded`: those of `uploads` alone."""
    uploads: tuple[Upload, ...] = Field(default=(), max_length=MAX_UPLOADS, strict=False)
    """Uploaded datasets, each by its id, whose training examples are learnt from after those of `name`. The test set
    stays that of `name`; of `uploaded` it is theirs."""
    validation: int = Field(default=0, ge=0, le=1_000_000)
    """Training examples held out for validation (0: none), chosen by `split_seed` among those of `name`."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the held-out split, apart from `seed` so that runs with other seeds share one split."""
    examples: int | None = Field(default=None, ge=1, le=1_000_000)
    """Training examples used: the first so many of the dataset (unset: all); for `simulated`, how many
    are drawn (unset: 1,000)."""
    noise: float | None = Field(default=None, ge=0, le=1000)
    """Standard deviation of the noise of `simulated` (unset: 0.5); refused for any other dataset."""

    draw_seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Seed with which the points of `simulated` are drawn (unset: 0); refused for any other dataset."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.draw_seed is not None and self.name != "simulated":
            raise mistakes.field_mistake(
                "draw_seed", f"{self.name} is not drawn: leave it out, or use simulated"
            )
        if self.noise is not None and self.name != "simulated":
            raise mistakes.field_mistake(
                "noise", f"{self.name} has no noise to set: leave it out, or use simulated"
            )
        self._check_uploads()
        available = self.card.train_examples
        if available is not None and self.examples is not None and self.examples > available:
            raise mistakes.field_mistake(
                "examples", f"{self.name} has {available:,} training examples: ask for no more than that"
            )
        if self.validation >= self.split_examples:
            raise mistakes.field_mistake(
                "validation",
                f"{self.validation:,} held out of {self.split_examples:,} leaves none to train on: "
                "hold out fewer",
            )
        return self

    def _check_uploads(self) -> None:
        if self.card.task == "regression" and self.uploads:
            raise mistakes.field_mistake("uploads", f"{self.name} has no images to add to: leave it out")
        if len({one.id for one in self.uploads}) != len(self.uploads):
            raise mistakes.field_mistake("uploads", "names a dataset twice: name each once")
        if self.name != UPLOADED:
            return
        if not self.uploads:
            raise mistakes.field_mistake("uploads", "uploaded is what this names: give at least one id")
        if self.examples is not None:
            raise mistakes.field_mistake("examples", "uploaded datasets are taken whole: leave it out")
        if self.test_examples == 0:
            raise mistakes.field_mistake(
                "uploads",
                "have no test examples: upload some with them, or set name to mnist, whose test set is used then",
            )

    @property
    def card(self) -> DatasetCard:
        return CATALOG[self.name]

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of `simulated`."""
        return 0.5 if self.noise is None else self.noise

    @property
    def own_examples(self) -> int:
        """Training examples of the dataset itself, which those of `uploads` follow."""
        return 0 if self.name == UPLOADED else self.examples or self.card.train_examples or 1000

    @property
    def total_examples(self) -> int:
        """Training examples before the validation split."""
        return self.own_examples + sum(one.train_examples for one in self.uploads)

    @property
    def split_examples(self) -> int:
        """Those of which `validation` are held out: the first so many. They do not change when others are added, so
        that runs with and without them share one split."""
        return self.own_examples or self.total_examples

    @property
    def test_examples(self) -> int:
        """Examples of the test set."""
        uploaded = sum(one.test_examples for one in self.uploads)
        return uploaded if self.name == UPLOADED else self.card.test_examples

    @property
    def train_examples(self) -> int:
        """Training examples after the validation split."""
        return self.total_examples - self.validation
