"""Loaded models: what is served when a name moves, a model is damaged, or memory is short."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api import app
from service.checkpoints import Arrays, Snapshot, encode_weights, shapes
from service.errors import NotFound
from service.serving import classifier
from service.serving.accelerated import AcceleratedNetwork
from service.serving.classifier import Classifier, ModelDamaged, NoModel, NotAClassifier, Placed
from service.serving.inference import Floats, NumpyNetwork
from service.serving.quantized import QuantizedNetwork, Trial
from service.settings import Settings, SettingsError
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, jobs, models, schema
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.models import Model
from service.store.reports import Draft

SPEC = TrainingSpec.model_validate({"network": {"hidden_widths": []}})
DEEPER = TrainingSpec.model_validate({"network": {"hidden_widths": [5]}})
CURVE = TrainingSpec.model_validate({"dataset": {"name": "simulated"}, "network": {"hidden_widths": []}})


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A migrated SQLite database."""
    database = Database(f"sqlite:///{tmp_path / 'numeral.db'}")
    schema.migrate(database)
    yield database
    database.close()


def register(
    db: Database, spec: TrainingSpec = SPEC, *, damaged: bool = False, trial: Trial | None = None
) -> Model:
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes(spec).items()}
    arrays["input.mean"] *= 0
    data = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), spec, preprocessing="1")
    answer, _ = jobs.submit(db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
    job = attempts.claim(db, answer["id"], worker="w", device="CPU", lease_seconds=60)
    assert job is not None
    attempt = Attempt(job.id, job.attempt)
    header = checkpoints.save(
        db,
        attempt,
        step=1,
        epoch=1.0,
        reason="final",
        metrics={},
        spec=spec.model_dump(mode="json"),
        weights=data,
        state=None,
    )
    if damaged:
        with db.write() as connection:
            connection.exec_driver_sql(f"DELETE FROM chunk WHERE blob_id = '{header.weights_blob}'")  # noqa: S608
    draft = None if trial is None else Draft({}, None, quantized=asdict(trial))
    model = models.finish(
        db,
        attempt,
        header,
        preprocessing="1",
        dataset_sha256="0" * 64,
        provenance={},
        runtime=1,
        report=draft,
    )
    assert model is not None
    return model


def test_the_first_request_need_not_wait_for_a_refresh(db: Database) -> None:
    serving = Classifier(db)
    with pytest.raises(NoModel):
        serving.loaded("latest")
    made = register(db)
    assert serving.describe() == "none yet"
    assert serving.loaded("latest").model == made
    assert serving.loaded(made.id) is serving.loaded("latest")


def test_a_name_moves_only_when_its_model_is_loaded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = register(db)
    serving = Classifier(db)
    serving.refresh()
    second = register(db)
    assert serving.loaded("latest").model == first
    seen: list[Model] = []
    load = checkpoints.weights

    def watched(*arguments: object) -> bytes:
        seen.append(serving.loaded("latest").model)  # a request, while the new weights are read
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "weights", watched)
    serving.refresh()
    assert seen == [first]
    assert serving.loaded("latest").model == second
    serving.refresh()
    assert seen == [first]  # nothing is loaded twice


def test_an_alias_moves_and_an_unknown_name_is_unknown(db: Database) -> None:
    made = [register(db), register(db)]
    serving = Classifier(db)
    for model in made:
        models.set_alias(db, "champion", model.id)
        serving.refresh()
        assert serving.loaded("champion").model == model
    with pytest.raises(NotFound):
        serving.loaded("none-such")
    with pytest.raises(NotFound):
        serving.loaded("model_none")


def test_a_damaged_newest_model_is_passed_over(db: Database) -> None:
    whole = register(db)
    register(db, CURVE)
    damaged = [register(db, damaged=True), register(db, damaged=True)]
    serving = Classifier(db)  # has seen none of them before
    serving.refresh()
    assert serving.loaded("latest").model == whole
    assert serving.describe() == f"ready; damaged: {damaged[1].id}"
    with pytest.raises(ModelDamaged):
        serving.loaded(damaged[1].id)
    newest = register(db)
    serving.refresh()
    assert serving.loaded("latest").model == newest
    assert serving.describe() == "ready"


def test_only_damaged_models(db: Database) -> None:
    made = register(db, damaged=True)
    serving = Classifier(db)
    serving.refresh()
    assert serving.describe() == f"none yet; damaged: {made.id}"
    with pytest.raises(ModelDamaged):
        serving.loaded("latest")


def test_a_regression_reads_no_digits(db: Database) -> None:
    classifies = register(db)
    curve = register(db, CURVE)
    serving = Classifier(db)
    models.set_alias(db, "champion", classifies.id)
    serving.refresh()
    models.set_alias(db, "champion", curve.id)
    serving.refresh()
    for reference in ("champion", curve.id):
        with pytest.raises(NotAClassifier):
            serving.loaded(reference)
    assert serving.loaded("latest").model == classifies


def test_memory_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [register(db) for _ in range(4)]
    monkeypatch.setattr(classifier, "CACHE_PARAMETERS", 2 * SPEC.parameter_count)
    serving = Classifier(db)
    for model in (*made[:2], made[0], made[2]):  # the second is the one used least of late
        assert serving.loaded(model.id).model == model
    assert list(serving._kept) == [made[0].id, made[2].id]
    monkeypatch.setattr(classifier, "CACHE_PARAMETERS", 1)
    assert serving.loaded(made[3].id).model == made[3]
    assert list(serving._kept) == [made[3].id]


def test_the_thread_follows_and_ends(db: Database) -> None:
    serving = Classifier(db)
    serving.start()
    serving.close()
    assert not serving._thread.is_alive()


@pytest.mark.parametrize(
    ("agreement", "fastest", "form"),
    [
        (1.0, QuantizedNetwork, QuantizedNetwork),
        (1.0, NumpyNetwork, NumpyNetwork),
        (0.99, QuantizedNetwork, NumpyNetwork),  # fast, but it says other things
    ],
)
def test_the_fastest_form_that_agrees_is_served(
    db: Database, monkeypatch: pytest.MonkeyPatch, agreement: float, fastest: type, form: type
) -> None:
    monkeypatch.setattr(classifier, "_seconds", lambda network, *_: 1 if isinstance(network, fastest) else 2)
    trial = Trial((400.0,), 10_000, agreement, 0.98, 0.98)
    model = register(db, DEEPER, trial=trial)
    assert model.quantized == {**asdict(trial), "peaks": [400.0]}
    loaded = Classifier(db).loaded("latest")
    assert type(loaded.network) is form
    pixels: Any = np.arange(784 * 3).reshape(3, 784) % 256
    np.testing.assert_allclose(loaded.network.logits(pixels), loaded.exact.logits(pixels), rtol=0.2)


def test_a_model_that_was_not_tried_in_bytes_is_served_in_float32(db: Database) -> None:
    register(db, DEEPER)
    loaded = Classifier(db).loaded("latest")
    assert loaded.network is loaded.exact
    assert classifier._seconds(loaded.network) > 0


def on_the_cpu(spec: TrainingSpec, arrays: Arrays) -> AcceleratedNetwork:
    return AcceleratedNetwork(spec, arrays, "cpu")


def test_batches_that_a_gpu_answers_sooner_go_there(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(network: object, count: int = 1) -> float:
        return 5 if isinstance(network, AcceleratedNetwork) else count / 10

    monkeypatch.setattr(classifier, "_seconds", seconds)
    model = register(db, DEEPER)
    loaded = Classifier(db, on_the_cpu).loaded(model.id)
    assert isinstance(loaded.network, Placed)
    assert loaded.network.least == 64
    assert loaded.network.near is loaded.exact
    assert loaded.network.cost == loaded.exact.cost
    asked: list[int] = []
    far = loaded.network.far.logits

    def watched(inputs: Any) -> Floats:
        asked.append(len(inputs))
        return far(inputs)

    monkeypatch.setattr(loaded.network.far, "logits", watched)
    pixels: Any = np.arange(784 * 64).reshape(64, 784) % 256
    for count in (63, 64):
        found, expected = (one.logits(pixels[:count]) for one in (loaded.network, loaded.exact))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert asked == [64]


def test_a_gpu_that_is_never_faster_serves_nothing(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_seconds", lambda *_: 1)
    register(db, DEEPER)
    loaded = Classifier(db, on_the_cpu).loaded("latest")
    assert loaded.network is loaded.exact


def test_a_gpu_that_says_other_things_serves_nothing(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(spec: TrainingSpec, arrays: Arrays) -> AcceleratedNetwork:
        return on_the_cpu(spec, {name: array * np.float32(1.1) for name, array in arrays.items()})

    monkeypatch.setattr(
        classifier, "_seconds", lambda network, *_: 1 if isinstance(network, AcceleratedNetwork) else 2
    )
    register(db, DEEPER)
    assert isinstance(Classifier(db, on_the_cpu).loaded("latest").network, Placed)
    loaded = Classifier(db, wrong).loaded("latest")
    assert loaded.network is loaded.exact


@pytest.mark.skipif(app.NVIDIA.exists(), reason="there is a GPU here")
def test_a_gpu_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    assert app._far(Settings(home=tmp_path)) is None
    with pytest.raises(SettingsError, match="NUMERAL_API_DEVICE"):
        app._far(Settings(home=tmp_path, api_device="cuda"))
