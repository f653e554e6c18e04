"""Loaded models, and their hot swap: a name such as `latest` moves to another model only when that model
is in memory, so that no request waits for it or fails.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from service.checkpoints import CorruptCheckpoint
from service.data.digits import VERSIONS
from service.errors import Conflict, NotFound, Unavailable
from service.inference import NumpyNetwork
from service.store import checkpoints, models
from service.store.checkpoints import Damaged
from service.store.database import Database
from service.store.models import LATEST, Model

REFRESH_SECONDS = 0.5
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


@dataclass(frozen=True)
class Loaded:
    """A model version in memory."""

    model: Model
    network: NumpyNetwork


class Classifier:
    """The models that this process serves. Any thread may ask."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._kept: OrderedDict[str, Loaded] = OrderedDict()  # by model id, least recently used first
        self._pointers: dict[str, str] = {}  # a name -> the model id that it stands for here
        self._wanted: dict[str, str] = {}  # the same by the database
        self._damaged: dict[str, str] = {}  # a model id -> what is wrong with it
        self._guard = threading.Lock()  # of the four above, held for moments only
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
        with self._guard:
            model_id = self._pointers.get(reference, reference)
            found = self._kept.get(model_id)
            if found is not None:
                self._kept.move_to_end(model_id)
                return found
        try:
            model = models.resolve(self._db, model_id)
        except NotFound:
            if reference == LATEST:
                raise NoModel(
                    'no model is trained yet: POST {"preset": "slp-200"} to /v1/jobs, and wait for the job'
                ) from None
            raise
        return self._load(model)

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
        if model.task != "classification":
            raise NotAClassifier(f"{model.id} is a {model.task} and reads no digits: name another model")
        if model.preprocessing not in VERSIONS:
            raise UnknownPreprocessing(
                f"{model.id} was trained for preprocessing {model.preprocessing!r}, and here there is "
                f"{', '.join(VERSIONS)}: name another model, or serve it with the version that trained it"
            )
        with self._loading:
            with self._guard:
                found = self._kept.get(model.id)
                damage = self._damaged.get(model.id)
            if found is not None:
                return found
            if damage is not None:
                raise ModelDamaged(damage)
            loaded = Loaded(model, self._network(model))
            self._keep(loaded)
            return loaded

    def _network(self, model: Model) -> NumpyNetwork:
        try:
            header = checkpoints.get(self._db, model.checkpoint_id)
            return NumpyNetwork.from_checkpoint(checkpoints.weights(self._db, header))
        except (Damaged, CorruptCheckpoint) as error:
            detail = f"the weights of {model.id} are damaged ({error}): name another model"
            with self._guard:
                self._damaged[model.id] = detail
            raise ModelDamaged(detail) from error

    def _keep(self, loaded: Loaded) -> None:
        with self._guard:
            self._kept[loaded.model.id] = loaded
            size = sum(kept.model.parameter_count for kept in self._kept.values())
            while size > CACHE_PARAMETERS and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                size -= dropped.model.parameter_count
