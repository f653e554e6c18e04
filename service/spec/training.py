"""TrainingSpec: everything that decides what a job computes."""

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service import mistakes
from service.catalog import Task
from service.errors import FieldError, Invalid
from service.seeds import derived_seed
from service.spec.augmentation import Augmentation
from service.spec.averaging import Averaging
from service.spec.committee import Committee
from service.spec.dataset import DatasetSpec
from service.spec.distillation import Distillation
from service.spec.network import NetworkSpec
from service.spec.optimizer import Adam, Optimizer
from service.spec.part import MAX_STEPS, Fraction, Part
from service.spec.plan import Batching, Plan
from service.spec.schedule import Constant, Schedule, Warmup

Monitor = Literal["validation_loss", "validation_accuracy"]


class Regularization(Part):
    """What is done against over-fitting."""

    l1: float = Field(default=0.0, ge=0, le=100)
    """Weight of the sum of |w| (not biases), applied as a proximal step, so that weights become exactly zero."""
    l2: float = Field(default=0.0, ge=0, le=100)
    """Weight of half the sum of w squared (not biases), added to the gradient."""
    dropout: Fraction = 0.0
    """Share of each hidden layer's outputs dropped in training (Srivastava et al. 2014)."""
    label_smoothing: Fraction = 0.0
    """Share of each label spread evenly over all classes (Szegedy et al. 2016)."""
    max_gradient_norm: float | None = Field(default=None, gt=0, le=1e9)
    """Euclidean norm to which the gradient of the loss is scaled down where it is longer (Pascanu et al. 2013); unset:
    it is left as it is."""


class EarlyStopping(Part):
    """Stop when a held-out figure no longer improves (the lecture's Landweber regularisation)."""

    monitor: Monitor = "validation_loss"
    """Figure that is watched."""
    patience: int = Field(default=5, ge=1, le=1_000_000)
    """Evaluations without improvement before training stops."""
    min_delta: float = Field(default=0.0, ge=0, le=1000)
    """Smallest change that counts as an improvement."""
    restore_best: bool = True
    """End with the weights of the best evaluation rather than the last."""


class Evaluation(Part):
    """When the training, validation and test figures are taken. At most one cadence; none: about every
    epoch, and no more than some hundred times a run. Always after the last step."""

    every_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Optimiser steps between evaluations."""
    every_epochs: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Epochs between evaluations."""
    every_seconds: float | None = Field(default=None, gt=0, le=86400)
    """Seconds between evaluations, at the first step after them."""
    initial: bool = False
    """Also before the first step, of the untrained network."""
    first_step: bool = False
    """Also after the first step."""
    train_examples: int = Field(default=2000, ge=1, le=1_000_000)
    """Training accuracy and loss are measured on the first so many training images, as the lecture does."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("every_steps", "every_epochs", "every_seconds") if getattr(self, name)]
        if len(given) > 1:
            raise mistakes.field_mistake(given[1], f"{given[0]} is set too: keep one cadence")
        return self


class Checkpoints(Part):
    """When weights are stored, and which of them are kept. The last is always stored."""

    every_epochs: int | None = Field(default=1, ge=1, le=MAX_STEPS)
    """Epochs between checkpoints; null: by steps or seconds only."""
    every_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Optimiser steps between checkpoints; null: by epochs only."""
    min_seconds: float = Field(default=5.0, ge=0, le=86400)
    """Of the checkpoints that `newest` keeps, those sooner than this after the one before are passed over."""
    keep: Literal["newest", "all"] = "newest"
    """newest keeps the `newest` latest, the best and the last; all keeps each one, as the lecture does."""
    newest: int = Field(default=2, ge=1, le=1000)
    """How many of the latest are kept by `newest`."""


class TrainingSpec(Part):
    """Everything that decides what a training job computes. The same spec, data, device and versions
    give the same weights, bit for bit, when `deterministic` is set; to rounding, where a worker trains members of a
    sweep together."""

    task: Task | None = None
    """classification or regression; unset: the dataset's."""
    dataset: DatasetSpec = DatasetSpec()
    """What is learnt from."""
    network: NetworkSpec = NetworkSpec()
    """The multi-layer perceptron."""
    loss: Literal["cross_entropy", "mse"] | None = None
    """cross_entropy on logits, or mse (against one-hot labels in a classification); unset: by task."""
    optimizer: Optimizer = Adam()
    """How weights follow the gradient."""
    schedule: Schedule = Constant()
    """Learning rate as a function of the step."""
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] | Literal["full"] = 100
    """Examples a step, or "full" for all of them."""
    epochs: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Epochs trained; this, `steps` or `budget_seconds`; none of them: 10."""
    passes_per_epoch: int = Field(default=1, ge=1, le=100_000)
    """Passes over the training set that make one epoch (the lecture's deep net: 10)."""
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Optimiser steps trained, instead of `epochs`."""
    budget_seconds: float | None = Field(default=None, ge=1, le=31_536_000)
    """Seconds of training, figures and checkpoints included, instead of `epochs`: the worker measures its speed, a few
    seconds at most and part of them, and fixes the number of steps so that the schedule ends on time."""
    regularization: Regularization = Regularization()
    """What is done against over-fitting."""
    augmentation: Augmentation | None = None
    """Deformed training images; unset: as they are."""
    averaging: Averaging | None = None
    """Moving average of the weights; unset: none, the newest are evaluated."""
    committee: Committee | None = None
    """Several networks that answer as one; unset: one network."""
    distillation: Distillation | None = None
    """Learning from a trained model's answers; unset: from the labels alone."""
    early_stopping: EarlyStopping | None = None
    """Stop when a held-out figure no longer improves; unset: train to the end."""
    evaluation: Evaluation = Evaluation()
    """When figures are taken."""
    checkpoints: Checkpoints = Checkpoints()
    """When weights are stored."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the first weights, the order of examples, their deformations and dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the products: float32 is exact, bfloat16 keeps float32 master weights; auto is bfloat16 for
    images where the processor (AVX512-BF16 or AMX) or the GPU (compute capability 8) has it, else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains: auto takes a GPU if a live worker has one."""
    deterministic: bool = True
    """Refuse algorithms whose result may differ between runs."""
    max_runtime_seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    """Seconds of training, all attempts together, after which the job fails with its checkpoints kept."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for mistake in self._mistakes():
            raise mistake
        return self

    def _mistakes(self) -> Iterator[PydanticCustomError]:
        card = self.dataset.card
        if self.task is not None and self.task != card.task:
            yield mistakes.field_mistake("task", f"{card.name} is a {card.task}: set that, or leave it out")
        if card.task == "regression":
            yield from self._regression_mistakes()
        if self.regularization.label_smoothing and self.loss_name != "cross_entropy":
            yield mistakes.field_mistake("regularization/label_smoothing", "needs cross_entropy: set it to 0")
        yield from self._length_mistakes()
        if self.batch_size != "full" and self.batch_size > self.dataset.train_examples:
            yield mistakes.field_mistake(
                "batch_size",
                f"{self.batch_size:,} is over the {self.dataset.train_examples:,} training examples: "
                'make it smaller, or "full"',
            )
        yield from self._hidden_layer_mistakes()
        if self.early_stopping is not None:
            yield from self._early_stopping_mistakes(self.early_stopping)
        if self.committee is not None:
            yield from self._committee_mistakes()
        if self.distillation is not None:
            yield from self._distillation_mistakes()

    def _regression_mistakes(self) -> Iterator[PydanticCustomError]:
        if self.loss == "cross_entropy":
            yield mistakes.field_mistake("loss", "a regression has no classes: use mse")
        if self.network.input_normalization == "symmetric":
            yield mistakes.field_mistake(
                "network/input_normalization", "symmetric is for pixels: use standardize"
            )
        if self.augmentation is not None:
            yield mistakes.field_mistake("augmentation", f"{self.dataset.name} has no images: leave it out")

    def _length_mistakes(self) -> Iterator[PydanticCustomError]:
        given = [name for name in ("epochs", "steps", "budget_seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            yield mistakes.field_mistake(
                given[1], f"{given[0]} is set too: give one and set the other to null"
            )
        if self.budget_seconds is not None:
            if self.max_runtime_seconds is not None and self.max_runtime_seconds <= self.budget_seconds:
                yield mistakes.field_mistake(
                    "max_runtime_seconds", "budget_seconds does not fit into it: raise it, or leave it out"
                )
            return
        if self.plan.steps > MAX_STEPS:
            yield mistakes.field_mistake(
                "epochs", f"that is {self.plan.steps:,} steps, over the limit of {MAX_STEPS:,}: ask for fewer"
            )
        if self.warmup_steps > self.plan.steps:
            yield mistakes.field_mistake(
                "schedule/warmup_steps", f"the run has only {self.plan.steps:,} steps: warm up for fewer"
            )

    def _hidden_layer_mistakes(self) -> Iterator[PydanticCustomError]:
        if self.optimizer.name == "muon" and not self.network.hidden_widths:
            yield mistakes.field_mistake(
                "network/hidden_widths",
                "muon is for hidden layers: give some, or use another optimizer",
            )
        if self.network.normalization == "batch" and self.batching.smallest_batch == 1:
            yield mistakes.field_mistake(
                "batch_size",
                "leaves a batch of one example, in which batch normalisation finds no variance: "
                "choose another, or set network.normalization to none",
            )

    def _early_stopping_mistakes(self, stopping: EarlyStopping) -> Iterator[PydanticCustomError]:
        if self.dataset.validation == 0:
            yield mistakes.field_mistake(
                "early_stopping/monitor",
                "there is no held-out data to watch: set dataset.validation, such as 10000",
            )
        if self.evaluation.every_seconds is not None:
            yield mistakes.field_mistake(
                "evaluation/every_seconds",
                "early stopping by the clock cannot be repeated: use every_steps or every_epochs",
            )
        if self.task_name == "regression" and stopping.monitor == "validation_accuracy":
            yield mistakes.field_mistake(
                "early_stopping/monitor", "a regression has no accuracy: use validation_loss"
            )

    def _committee_mistakes(self) -> Iterator[PydanticCustomError]:
        if self.task_name == "regression":
            yield mistakes.field_mistake(
                "committee",
                f"averages probabilities of classes, and {self.dataset.name} has none: leave it out",
            )
        elif self.loss_name == "mse":
            yield mistakes.field_mistake(
                "loss", "a committee averages log-probabilities, which mse does not train: use cross_entropy"
            )
        if self.early_stopping is not None:
            yield mistakes.field_mistake(
                "early_stopping",
                "the members of a committee end at the same step, and each would stop at another: set this to null "
                "and find the length with a job without a committee",
            )

    def _distillation_mistakes(self) -> Iterator[PydanticCustomError]:
        if self.task_name == "regression":
            yield mistakes.field_mistake(
                "distillation",
                f"learns probabilities of classes, and {self.dataset.name} has none: leave it out",
            )
        elif self.loss_name == "mse":
            yield mistakes.field_mistake(
                "loss", "a teacher's probabilities are learnt by cross_entropy: use that"
            )

    @property
    def task_name(self) -> Task:
        return self.dataset.card.task

    @property
    def loss_name(self) -> Literal["cross_entropy", "mse"]:
        return self.loss or ("cross_entropy" if self.task_name == "classification" else "mse")

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Units of every layer, inputs and outputs included."""
        card = self.dataset.card
        return (card.inputs, *self.network.hidden_widths, card.outputs)

    @property
    def networks(self) -> tuple[Self, ...]:
        """The spec of each network that is trained: of a committee's members, none of which has a committee, or
        this one."""
        if self.committee is None:
            return (self,)
        seeds = (derived_seed(self.seed, "member", index) for index in range(self.committee.members))
        return tuple(self.model_copy(update={"committee": None, "seed": seed}) for seed in seeds)

    @property
    def network_count(self) -> int:
        """How many `networks` there are."""
        return 1 if self.committee is None else self.committee.members

    @property
    def parameter_count(self) -> int:
        """Weights and biases of all that is served: of each network the sum over layers of (inputs + 1) x outputs.
        What a normalisation trains beside them is folded into them."""
        return self.network_count * sum(
            (inputs + 1) * outputs for inputs, outputs in pairwise(self.layer_widths)
        )

    @property
    def warmup_steps(self) -> int:
        """Steps of the schedule's warm-up; 0 for a schedule without one."""
        return self.schedule.warmup_steps if isinstance(self.schedule, Warmup) else 0

    @property
    def batching(self) -> Batching:
        """How the run goes through its examples."""
        examples = self.dataset.train_examples
        batch = examples if self.batch_size == "full" else self.batch_size
        steps_per_pass = math.ceil(examples / batch)
        steps_per_epoch = steps_per_pass * self.passes_per_epoch
        return Batching(examples, batch, steps_per_pass, steps_per_epoch)

    @property
    def plan(self) -> Plan:
        """How many steps, batches and epochs the spec comes to. Raises ValueError for one with a
        `budget_seconds`, whose steps a worker has yet to fix: see `planned` and `with_steps`."""
        if self.planned is None:
            raise ValueError("the number of steps is not known before the speed has been measured")
        return self.planned

    @property
    def planned(self) -> Plan | None:
        """`plan`, or None where it is not known yet."""
        if self.budget_seconds is not None:
            return None
        batching = self.batching
        steps = self.steps if self.steps is not None else (self.epochs or 10) * batching.steps_per_epoch
        return Plan(**vars(batching), steps=steps)

    def with_steps(self, steps: int) -> Self:
        """The same recipe over so many steps, at least those of the warm-up."""
        assert self.warmup_steps <= steps <= MAX_STEPS
        return self.model_copy(update={"steps": steps, "epochs": None, "budget_seconds": None})

    @property
    def memory_bytes(self) -> int:
        """Estimate of the memory that training takes: weights, their average, gradients and optimiser state in
        float32, a copy of the weights in bfloat16, the dataset as bytes and, unless it is deformed, as the network
        sees it, the activations of a batch, and the draws of a pass of elastic deformations. All but the dataset as
        bytes each member of a committee has for itself, and its weights once more, to be evaluated."""
        copies = {"sgd": 3, "adam": 4, "amsgrad": 5, "adamw": 4, "muon": 4}[self.optimizer.name]
        normalized = self.network.normalization != "none"
        copies += (self.averaging is not None) + normalized + (self.committee is not None)
        batches = (3 + normalized) * 4 * self.batching.batch * sum(self.layer_widths)
        card = self.dataset.card
        if self.augmentation is None:
            batches += 4 * self.dataset.train_examples * card.inputs
        data = (self.dataset.total_examples + self.dataset.test_examples) * (card.inputs + 1)
        own = (batches + self._draws_bytes) * self.network_count
        return (4 * copies + 2) * self.parameter_count + own + data

    @property
    def _draws_bytes(self) -> int:
        if self.augmentation is None:
            return 0
        rank = math.ceil(26 / self.augmentation.elastic_sigma) + 2  # about that of the field's factor
        return 4 * self.dataset.train_examples * (7 + 2 * rank**2)

    def canonical_json(self) -> str:
        """The spec with every field spelt out and keys sorted: equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def parse(payload: object, *, max_parameters: int) -> TrainingSpec:
    """A spec from decoded JSON. Raises Invalid with a JSON pointer and a remedy for each mistake,
    also when the network has more than `max_parameters` parameters."""
    try:
        spec = TrainingSpec.model_validate(payload)
    except ValidationError as error:
        raise Invalid(
            "the training spec has mistakes; each is listed with its field",
            code="invalid_spec",
            errors=mistakes.pointed(error),
        ) from None
    if spec.parameter_count > max_parameters:
        detail = (
            f"{spec.parameter_count:,} parameters are over the budget of {max_parameters:,} "
            f"(NUMERAL_MAX_PARAMETERS): use narrower or fewer layers{'' if spec.committee is None else ', or members'}"
        )
        raise Invalid(
            detail,
            code="parameter_budget",
            errors=[FieldError("#/network/hidden_widths", detail)],
        )
    return spec
