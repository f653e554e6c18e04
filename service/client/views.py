"""What the API answers, typed and frozen. Fields that a newer server adds are kept."""

from typing import Any

from pydantic import BaseModel, ConfigDict

TERMINAL = ("succeeded", "failed", "cancelled")


class View(BaseModel):
    """Something that the API has told."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_told(self) -> dict[str, Any]:
        """As JSON, with just the fields that the API told."""
        return self.model_dump(mode="json", exclude_unset=True)


class Failure(View):
    """Why something failed. `code` is stable."""

    code: str
    detail: str


class Lasting(View):
    """Something that goes on for a while, and then has ended."""

    id: str
    state: str

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


class Progress(View):
    """Where a run is; None is unknown."""

    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    epochs: float | None = None
    loss: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    precision: str | None = None


class JobFacts(Lasting):
    """A training job. `metrics` has the newest value of each."""

    preset: str | None = None
    spec: dict[str, Any] = {}
    parameter_count: int
    device: str | None = None
    attempt: int
    progress: Progress = Progress()
    metrics: dict[str, float] = {}
    model_id: str | None = None
    weights_sha256: str | None = None
    dataset_sha256: str | None = None
    sweep_id: str | None = None
    code_version: str | None = None
    error: Failure | None = None
    metadata: dict[str, Any] = {}
    priority: int | None = None
    queue_position: int | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None


class JobPlan(View):
    """What a job would come to. `reuses` is the job that would be answered instead."""

    parameter_count: int
    memory_bytes: int
    steps: int | None = None
    epochs: float | None = None
    estimated_seconds: float
    estimate_basis: str
    queue_position: int
    reuses: str | None = None
    spec: dict[str, Any]


class Event(View):
    """Something that happened to a job. `seq` counts from 1; `type` is one of status, progress, metric, checkpoint,
    log, warning and end."""

    seq: int
    type: str
    data: dict[str, Any]


class Point(View):
    """One value of one series."""

    name: str
    step: int
    epoch: float
    value: float
    time: str


class Mistake(View):
    """A test image that a job reads wrong."""

    index: int
    true: int
    predicted: int
    confidence: float
    loss: float


class Checkpoint(View):
    """The weights of a job at one step."""

    id: str
    job_id: str | None = None
    step: int
    epoch: float
    metrics: dict[str, float]
    weights_sha256: str
    size_bytes: int
    created_at: str


class Member(View):
    """A job of a sweep; `changes` to the sweep's base, by field. `rank` 1 is the best."""

    index: int
    job_id: str
    state: str
    changes: dict[str, Any]
    rank: int | None = None
    metrics: dict[str, float] = {}
    model_id: str | None = None


class SweepFacts(Lasting):
    """Many jobs that were asked for at once. `members` and what they are ranked by are missing from a list."""

    counts: dict[str, int]
    size: int
    preset: str | None = None
    fields: list[str]
    created_at: str
    metric: str | None = None
    warnings: list[str] = []
    reason: str | None = None
    set: list[int] | None = None
    over_seeds: list[dict[str, Any]] = []
    members: list[Member] = []


class SweepPlan(View):
    """What a sweep would come to: each of its members, and what they are together; parameters and memory are those of
    the largest."""

    size: int
    parameter_count: int
    memory_bytes: int
    steps: int | None = None
    estimated_seconds: float
    estimate_basis: str
    queue_position: int
    metric: str
    warnings: list[str] = []
    spec: dict[str, Any]
    members: list[dict[str, Any]]


class BatchFacts(Lasting):
    """A set of images that is read in the background. `counts` has `total`, `done` and, of those, `errors`."""

    model_id: str
    counts: dict[str, int]
    error: Failure | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None


class Model(View):
    """A model version, and the names that point at it."""

    id: str
    version: int
    aliases: list[str] = []
    task: str
    preset: str | None = None
    job_id: str
    checkpoint_id: str | None = None
    parameter_count: int
    metrics: dict[str, float]
    weights_sha256: str
    created_at: str


class AliasMove(View):
    """One move of an alias."""

    seq: int
    model: str
    action: str
    time: str


class Alias(View):
    """A name, and the id of the model that it stands for. `history`, newest first, comes with a single alias only."""

    name: str
    model: str
    seq: int
    updated_at: str
    history: list[AliasMove] = []


class Gate(View):
    """Two models on the test set of the present one."""

    present: str
    candidate: str
    dataset: str
    examples: int
    accuracy_present: float
    accuracy_candidate: float
    only_present_right: int
    only_candidate_right: int
    p_value: float
    level: float
    passed: bool


class Promotion(Alias):
    """An alias after a promotion. `gate` None: it stood for no other model, so that nothing was tested."""

    gate: Gate | None = None


class Box(View):
    """Where a digit stands, in the picture's own pixels."""

    left: int
    top: int
    width: int
    height: int


class Digit(View):
    """What one image was read as; `probabilities` of 0 to 9. `label` is None where it abstains, for `reason`, and
    where the image cannot be read, for `error`. `set` holds the labels that it may be, likeliest first, where a
    coverage was asked for; `image`, `box` and `polarity` are there where they were asked for, `feedback_id` where the
    image was kept."""

    label: int | None = None
    confidence: float = 0.0
    probabilities: list[float] = []
    warnings: list[str] = []
    reason: str | None = None
    set: list[int] | None = None
    image: str | None = None
    box: Box | None = None
    polarity: str | None = None
    feedback_id: str | None = None
    error: Failure | None = None


class Answer(View):
    """The digits of one request, in the order of its images, and the model that read them."""

    model: str
    version: int | None = None
    predictions: list[Digit]

    @property
    def labels(self) -> list[int | None]:
        return [digit.label for digit in self.predictions]

    @property
    def label(self) -> int | None:
        """Of the one image. Raises ValueError if there were several."""
        if len(self.predictions) != 1:
            raise ValueError(f"{len(self.predictions)} images were read: see labels")
        return self.predictions[0].label


class ReadDigit(Digit):
    """A digit in a picture, and which line it stands in, from 0."""

    line: int
    box: Box


class Reading(View):
    """What stands in a picture, in reading order; in `text` a line break parts lines."""

    model: str
    version: int
    text: str
    digits: list[ReadDigit]
    warnings: list[str] = []


class HiddenLayer(View):
    """What a hidden layer made of an image."""

    units: int
    activation: str
    values: list[float]


class Explanation(View):
    """Why a model reads an image as it does. `pixels` and `saliency` are 28 rows of 28: what the network saw, and by how
    much log p(`label`) rises with each."""

    model: str
    version: int
    label: int
    probabilities: list[float]
    warnings: list[str] = []
    pixels: list[int]
    saliency: list[float]
    layers: list[HiddenLayer]


class Sample(View):
    """An image that was kept. `image` is a data: URL of a PNG of 28 x 28; `label` None: nobody has said what it is."""

    id: str
    image: str
    model: str
    preprocessing: str
    predicted: int
    confidence: float
    label: int | None = None
    created_at: str
    labelled_at: str | None = None


class Preset(View):
    """An experiment that the server knows by name. `steps` None: the worker fixes them, to meet a budget."""

    name: str
    title: str
    section: str = ""
    published: dict[str, float]
    parameter_count: int
    steps: int | None = None
    spec: dict[str, Any]


class Dataset(View):
    """A dataset that a spec may name, by `id` one that was uploaded. `train_examples` None: as many as the spec says."""

    id: str | None = None
    name: str
    version: int | None = None
    title: str
    task: str
    inputs: int
    outputs: int
    train_examples: int | None = None
    test_examples: int
    licence: str | None = None
    source: str | None = None
    preprocessing: str | None = None
    sha256: str | None = None
    classes: dict[str, list[int]] | None = None
    created_at: str | None = None


class Gpu(View):
    """A GPU as a whole at a worker's last heartbeat, whoever uses it."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization: float | None = None


class Worker(View):
    """A process that trains, or reads batches."""

    name: str
    queues: list[str]
    device: str
    job_id: str | None = None
    started_at: str
    seen_at: str
    gpu: Gpu | None = None


class Status(View):
    """The service at a glance."""

    version: str
    jobs: dict[str, int]
    queues: dict[str, int]
    workers: int


class Key(View):
    """An API key, without its text."""

    id: str
    name: str
    scopes: list[str]
    limits: dict[str, int | None]
    state: str
    created_at: str
    last_used_at: str | None = None
    expires_at: str | None = None
    revoked_at: str | None = None


class NewKey(Key):
    """A key that has just been made. `key` is its text, which is told this once."""

    key: str
