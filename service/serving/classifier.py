"""Loaded models, and their hot swap: a name such as `latest` moves to another model only when that model
is in memory, so that no request waits for it or fails.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.checkpoints import Arrays, CorruptCheckpoint, Weights, decode_weights
from service.data.digits import PIXELS, VERSIONS
from service.errors import Conflict, NotFound, Unavailable
from service.observing.meter import Meter
from service.serving import confidence
from service.serving.batcher import LARGEST_BATCH, Runs
from service.serving.confidence import Calibration, Predicted
from service.serving.inference import Floats, NumpyNetwork
from service.serving.quantized import QuantizedNetwork, Trial
from service.spec import TrainingSpec
from service.store import checkpoints, models
from service.store.blobs import Damaged
from service.store.database import Database
from service.store.models import LATEST, Model

REFRESH_SECONDS = 0.5
TRIALS = 7  # of each form, of which the fastest counts
BATCHES = (1, 8, 32, 64, 128, LARGEST_BATCH)  # of which the first that a GPU answers sooner goes there
TOLERANCE = 1e-3  # of logits of one size, between two ways of adding up in float32
CACHE_PARAMETERS = 250_000_000  # kept in memory, 4 bytes each; one model is kept whatever its size

log = logging.getLogger(__name__)


class NoModel(Conflict):
    code = "no_model"


class NotAClassifier(Conflict):
    code = "not_a_classifier"


class UnknownPreprocessing(Conflict):
    code = "unknown_preprocessing"


class ModelDamaged(Conflict):
    code = "model_damaged"


@dataclass(frozen=True, eq=False)
class Placed:
    """A network in two places, of which each batch takes the one where it is answered sooner."""

    near: Runs
    far: Runs
    least: int
    """images that are worth the way to the farther one"""

    @property
    def cost(self) -> int:
        return self.near.cost

    def logits(self, inputs: NDArray[Any]) -> Floats:
        """(n, classes) of (n, 784)."""
        return (self.far if len(inputs) >= self.least else self.near).logits(inputs)


Far = Callable[[TrainingSpec, Arrays], Runs]  # makes a network of a checkpoint's on a GPU


@dataclass(frozen=True)
class Loaded:
    """A model version in memory. `network` is the fastest form of it that may answer, `exact` that in float32."""

    model: Model
    network: Runs
    exact: NumpyNetwork
    calibration: Calibration | None = None
    meter: Meter = field(default_factory=Meter)  # what it says is counted there

    def predicted(self, logits: Floats, pixels: NDArray[Any]) -> Predicted:
        """What the model says of pictures, (n, 784) from 0 to 255, by its network's logits of them."""
        found = confidence.predicted(logits, pixels, self.calibration)
        if len(found.labels) == 1:
            self.meter.predicted_one(found.labels[0], float(found.confidences[0]))
        else:
            self.meter.predicted(found.labels, found.confidences)
        return found


class Classifier:
    """The models that this process serves. Any thread may ask."""

    def __init__(self, db: Database, far: Far | None = None, meter: Meter | None = None) -> None:
        """`far` where there is a GPU to serve with."""
        self._db, self._far = db, far
        self._meter = meter or Meter()
        self._kept: OrderedDict[str, Loaded] = OrderedDict()  # by model id, least recently used first
        self._pointers: dict[str, str] = {}  # a name -> the model id that it stands for here
        self._wanted: dict[str, str] = {}  # the same by the database
        self._damaged: dict[str, str] = {}  # a model id -> what is wrong with it
        self._unloaded: set[str] = set()  # ids of models that were here and were told to go
        self._guard = threading.Lock()  # of the five above, held for moments only
        self._loading = threading.Lock()  # held while weights are read
        self._refreshing = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="classifier", daemon=True)

    def start(self) -> None:
        """Follow the pointers in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=10)

    def loaded(self, reference: str) -> Loaded:
        """The model that an id, `latest` or an alias stands for; a request uses this one throughout.
        Raises NotFound, NoModel, NotAClassifier, UnknownPreprocessing and ModelDamaged."""
        found = self.at_hand(reference)
        if found is not None:
            return found
        return self._load(self.resolve(self._pointers.get(reference, reference)))

    def resolve(self, reference: str) -> Model:
        """The model that a reference stands for by the database, in memory or not. Raises NotFound, NoModel,
        NotAClassifier and UnknownPreprocessing."""
        try:
            model = models.resolve(self._db, reference)
        except NotFound:
            if reference == LATEST:
                raise NoModel(
                    'no model is trained yet: POST {"preset": "slp-200"} to /v1/jobs, and wait for the job'
                ) from None
            raise
        _check(model)
        return model

    def unload(self, model_id: str) -> None:
        """Take a model out of this process's memory. Requests go on: the next one that needs it loads it
        again."""
        with self._guard:
            if self._kept.pop(model_id, None) is not None:
                self._unloaded.add(model_id)

    def is_unloaded(self, model_id: str) -> bool:
        """Whether the model was told to go and was not needed since."""
        with self._guard:
            return model_id in self._unloaded

    def absence(self, model_id: str) -> str:
        """Why a model is not in this process's memory; empty if it is."""
        with self._guard:
            if model_id in self._kept:
                return ""
            if model_id in self._unloaded:
                return "unloaded: the next request loads it again"
            return self._damaged.get(model_id, "not loaded yet: the first request loads it")

    def at_hand(self, reference: str) -> Loaded | None:
        """The same if it is in memory: nothing is waited for."""
        with self._guard:
            found = self._kept.get(self._pointers.get(reference, reference))
            if found is not None:
                self._kept.move_to_end(found.model.id)
            return found

    def refresh(self) -> None:
        """See which model each name stands for now, `latest` first. Loads before it moves a name; if the
        new model's weights are damaged the name stays where it was."""
        with self._refreshing:
            now = models.pointers(self._db)
            for name in sorted(now, key=lambda name: (name != LATEST, name)):
                if now[name] not in (self._pointers.get(name), *self._damaged):
                    self._move(name, now[name])
            with self._guard:
                self._wanted = now

    def describe(self) -> str:
        """Whether `latest` can be served here, and which models that are named cannot."""
        with self._guard:
            state = "ready" if LATEST in self._pointers else "none yet"
            damaged = sorted(set(self._wanted.values()) & set(self._damaged))
        return f"{state}; damaged: {', '.join(damaged)}" if damaged else state

    def _follow(self) -> None:
        while True:
            try:
                self.refresh()
            except Unavailable as error:
                log.warning("models are looked at later: %s", error.detail)
            except Exception:
                log.exception("could not look at the models")
            if self._closing.wait(REFRESH_SECONDS):
                return

    def _move(self, name: str, model_id: str) -> None:
        for model in self._candidates(name, model_id):
            try:
                self._load(model)
            except ModelDamaged as error:
                log.warning("%s is not moved to %s: %s", name, model.id, error.detail)
                continue
            except (NotAClassifier, UnknownPreprocessing):
                pass  # the name says so itself when it is asked
            with self._guard:
                self._pointers[name] = model.id
            log.info("%s is model version %d (%s)", name, model.version, model.id)
            return

    def _candidates(self, name: str, model_id: str) -> Iterable[Model]:
        """The model, and if `latest` has nothing to stay with, the versions before it."""
        yield models.resolve(self._db, model_id)
        after: str | None = model_id
        while name == LATEST and LATEST not in self._pointers and after is not None:
            found, has_more = models.page(self._db, limit=20, after=after)
            yield from (model for model in found if model.task == "classification")
            after = found[-1].id if has_more else None

    def _load(self, model: Model) -> Loaded:
        _check(model)
        with self._loading:
            with self._guard:
                found = self._kept.get(model.id)
                damage = self._damaged.get(model.id)
            if found is not None:
                return found
            if damage is not None:
                raise ModelDamaged(damage)
            weights = self._weights(model)
            exact = NumpyNetwork(weights.spec, weights.arrays)
            network: Runs = _fastest(model, weights, exact)
            if self._far is not None:
                network = _placed(model, network, exact, self._far(weights.spec, weights.arrays))
            loaded = Loaded(model, network, exact, Calibration.of_json(model.calibration), self._meter)
            self._keep(loaded)
            return loaded

    def _weights(self, model: Model) -> Weights:
        try:
            header = checkpoints.get(self._db, model.checkpoint_id)
            return decode_weights(checkpoints.weights(self._db, header))
        except (Damaged, CorruptCheckpoint) as error:
            detail = f"the weights of {model.id} are damaged ({error}): name another model"
            with self._guard:
                self._damaged[model.id] = detail
            raise ModelDamaged(detail) from error

    def _keep(self, loaded: Loaded) -> None:
        with self._guard:
            self._kept[loaded.model.id] = loaded
            self._unloaded.discard(loaded.model.id)
            size = sum(kept.model.parameter_count for kept in self._kept.values())
            while size > CACHE_PARAMETERS and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                size -= dropped.model.parameter_count


def _fastest(model: Model, weights: Weights, exact: NumpyNetwork) -> NumpyNetwork | QuantizedNetwork:
    """By a measurement on this machine; weights of bytes only where they did well on the test set."""
    if model.quantized is None:
        return exact
    trial = Trial.of(model.quantized)
    if not trial.is_good:
        log.info("%s is served in float32: bytes agree in %.2f %%", model.id, 100 * trial.agreement)
        return exact
    rounded = QuantizedNetwork(weights.spec, weights.arrays, trial.peaks)
    taken = {network: _seconds(network) for network in (exact, rounded)}
    fastest = min(taken, key=lambda network: taken[network])
    log.info(
        "%s is served %s: %.2f ms an image in float32, %.2f in bytes",
        model.id,
        "in float32" if fastest is exact else "in bytes",
        1000 * taken[exact],
        1000 * taken[rounded],
    )
    return fastest


def _placed(model: Model, near: Runs, exact: Runs, far: Runs) -> Runs:
    """By a measurement: on the GPU too, if that says the same and is faster with some batch."""
    images = _images(LARGEST_BATCH)
    expected = exact.logits(images)
    if not np.allclose(far.logits(images), expected, rtol=0, atol=TOLERANCE * float(np.abs(expected).max())):
        log.warning("%s is not served by the GPU: its answers differ there", model.id)
        return near
    for count in BATCHES:
        if _seconds(far, count) < _seconds(near, count):
            log.info("%s is served by the GPU from %d images on", model.id, count)
            return Placed(near, far, count)
    return near


def _seconds(network: Runs, count: int = 1) -> float:
    """The least that so many images take together, without others."""
    images, taken = _images(count), []
    for _ in range(TRIALS):
        began = time.perf_counter()
        network.logits(images)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _images(count: int) -> NDArray[np.uint8]:
    """(count, 784): a fifth of each is ink, each in other places."""
    images = np.zeros((count, PIXELS), np.uint8)
    for number, image in enumerate(images):
        image[number % 5 :: 5] = 255
    return images


def _check(model: Model) -> None:
    if model.task != "classification":
        raise NotAClassifier(f"{model.id} is a {model.task} and reads no digits: name another model")
    if model.preprocessing not in VERSIONS:
        raise UnknownPreprocessing(
            f"{model.id} was trained for preprocessing {model.preprocessing!r}, and here there is "
            f"{', '.join(VERSIONS)}: name another model, or serve it with the version that trained it"
        )
