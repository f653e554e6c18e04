"""Pictures over HTTP: of jobs at every stage, of datasets, and of augmentations before anything is trained."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from sqlalchemy import update

from service.api.pictures import AT_ONCE
from service.checkpoints import Snapshot, encode_weights, shapes
from service.data import simulated
from service.data.digits import PREPROCESSING_VERSION
from service.plots import picture
from service.serving import answers
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, jobs, models, tables
from service.store.attempts import Attempt, Curve, Point
from service.store.reports import Draft
from tests.conftest import mnist_folder
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_api_bad_input import refused

NAMES = (
    "loss", "accuracy", "samples", "augmented", "misclassified", "confusion", "calibration", "weights", "fitted"
)  # fmt: skip
MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png", "csv": "text/csv; charset=utf-8; header=present"}
GENERATOR = np.random.default_rng(0)
TARGETS = GENERATOR.integers(0, 10, 400)
LOGITS = (5 * np.eye(10)[TARGETS] + 2.5 * GENERATOR.standard_normal((400, 10))).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (400, 784), dtype=np.uint8)
TOLD = answers.of_logits(LOGITS, TARGETS, IMAGES)
CONFUSION = np.zeros((10, 10), int)
np.add.at(CONFUSION, (TOLD.targets, TOLD.predicted), 1)


def submit(live: Live, **spec: Any) -> str:
    parsed = TrainingSpec.model_validate({"network": {"hidden_widths": [12]}, **spec})
    answer, _ = jobs.submit(live.db, parsed, answer=lambda job: {"id": job.id}, queue="cpu")
    return str(answer["id"])


def take_figures(live: Live, attempt: Attempt, *steps: int, curves: tuple[Curve, ...] = ()) -> None:
    points = [
        Point(f"{part}_{figure}", step, step / 100, round(value + step / 1000, 6))
        for step in steps
        for part in ("train", "test")
        for figure, value in (("loss", 0.2), ("accuracy", 0.5))
    ]
    attempts.write_progress(live.db, attempt, progress={"step": steps[-1]}, points=points, curves=curves)


def finish(live: Live, attempt: Attempt) -> None:
    """End the job with weights and a report of 400 test images."""
    spec = TrainingSpec.model_validate(jobs.get(live.db, attempt.job_id).spec)
    arrays = {
        name: GENERATOR.standard_normal(shape).astype(np.float32) for name, shape in shapes(spec).items()
    }
    weights = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), spec, preprocessing=PREPROCESSING_VERSION)
    header = live.checkpoint(attempt, weights)
    bins = [{"low": 0.0, "high": 0.5, "count": 0, "accuracy": None, "confidence": None}]
    bins += [{"low": 0.5, "high": 1.0, "count": 400, "accuracy": TOLD.accuracy, "confidence": 0.9}]
    data = {"confusion_matrix": CONFUSION.tolist(), "calibration": {"bins": bins}}
    models.finish(
        live.db,
        attempt,
        header,
        preprocessing=PREPROCESSING_VERSION,
        dataset_sha256="0" * 64,
        provenance={},
        runtime=1,
        report=Draft(data, answers.encode(TOLD)),
    )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """An API that has MNIST."""
    with serving(settings_for(tmp_path_factory.mktemp("home"), data_dir=mnist_folder())) as running:
        yield running


@pytest.fixture(scope="module")
def classifier(seeing: Live) -> str:
    """A classification that has succeeded."""
    attempt = seeing.claim(submit(seeing, augmentation={"rotation": 20}))
    take_figures(seeing, attempt, 0, 100, 200)
    finish(seeing, attempt)
    return attempt.job_id


@pytest.fixture(scope="module")
def regression(seeing: Live) -> str:
    """A regression that trains."""
    spec = {"dataset": {"name": "simulated", "examples": 50}, "batch_size": "full"}
    attempt = seeing.claim(submit(seeing, **spec))
    curves = [Curve(step, step / 1, np.full(315, step, np.float32)) for step in range(20)]
    take_figures(seeing, attempt, *range(20), curves=tuple(curves))
    return attempt.job_id


def get(live: Live, job_id: str, file: str, **query: Any) -> httpx.Response:
    return live.http.get(f"/v1/jobs/{job_id}/plots/{file}", params=query)


def rows(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.text, newline="")))[1:]


def texts(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    root = ET.fromstring(answer.content)  # noqa: S314 - our own
    return {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize("file_format", MEDIA_TYPES)
@pytest.mark.parametrize("name", NAMES[:-1])
def test_every_picture_of_a_classification(
    seeing: Live, classifier: str, name: str, file_format: str
) -> None:
    answer = get(seeing, classifier, f"{name}.{file_format}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, MEDIA_TYPES[file_format])
    assert answer.headers["Content-Disposition"] == f'inline; filename="{classifier}-{name}.{file_format}"'
    assert answer.headers["Cache-Control"] == "private, no-cache"
    tag = answer.headers["ETag"]
    same = seeing.http.get(answer.url, headers={"If-None-Match": f'"x", W/{tag}'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert seeing.http.get(answer.url, headers={"If-None-Match": '"x"'}).content == answer.content
    if file_format == "png":
        image = Image.open(io.BytesIO(answer.content))
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    elif file_format == "svg":
        assert texts(answer)
    else:
        assert len(rows(answer)) > 1


def test_the_figures_of_a_run(seeing: Live, classifier: str) -> None:
    assert rows(get(seeing, classifier, "accuracy.csv")) == [
        [series, str(step), str(step / 100), str(0.5 + step / 1000)]
        for series in ("training", "test")
        for step in (0, 100, 200)
    ]
    assert {"Iterations", "training 0.4"} <= texts(get(seeing, classifier, "loss.svg"))
    by_epoch = get(seeing, classifier, "loss.svg", axis="epoch", log="true")
    assert "Epochs" in texts(by_epoch)


def test_a_picture_changes_with_the_run(live: Live) -> None:
    attempt = live.claim(submit(live))
    take_figures(live, attempt, 1)
    first = get(live, attempt.job_id, "loss.csv")
    take_figures(live, attempt, 2)
    second = live.http.get(first.url, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, len(rows(first)), len(rows(second))) == (200, 2, 4)


def test_the_mistakes_of_a_class(seeing: Live, classifier: str) -> None:
    found = TOLD.misclassified()
    shown = rows(get(seeing, classifier, "misclassified.csv"))
    assert [int(row[0]) for row in shown] == found[:16].tolist()
    assert shown[0][4:] == [str(value) for value in IMAGES[found[0]]]
    true, predicted = int(TOLD.targets[found[0]]), int(TOLD.predicted[found[0]])
    of_kind = rows(get(seeing, classifier, "misclassified.csv", true=true, predicted=predicted, limit=100))
    expected = TOLD.misclassified(true=true, predicted=predicted).tolist()
    assert [int(row[0]) for row in of_kind] == expected
    assert {row[1] + " as " + row[2] for row in of_kind} == {f"{true} as {predicted}"}
    none = texts(get(seeing, classifier, "misclassified.svg", true=3, predicted=3))
    assert "No test images of class 3 read as class 3" in none


def test_the_confusion_matrix_and_the_weights(seeing: Live, classifier: str) -> None:
    counts = [int(row[2]) for row in rows(get(seeing, classifier, "confusion.csv"))]
    assert counts == CONFUSION.ravel().tolist()
    assert len(rows(get(seeing, classifier, "weights.csv", limit=5))) == 5
    assert "First-layer weights: 5 of 12 units, largest norm first" in texts(
        get(seeing, classifier, "weights.svg", limit=5)
    )


def test_the_weights_of_a_committee_are_those_of_its_first_member(live: Live) -> None:
    job_id = submit(live, committee={"members": 2})
    attempt = live.claim(job_id)
    finish(live, attempt)
    assert "First-layer weights of the first of 2 members: all 12 units, largest norm first" in texts(
        get(live, job_id, "weights.svg")
    )


def test_damaged_weights_and_answers_are_not_drawn(live: Live) -> None:
    attempt = live.claim(submit(live))
    finish(live, attempt)
    whole = get(live, attempt.job_id, "weights.csv")
    with live.db.write() as connection:
        connection.exec_driver_sql("UPDATE chunk SET data = x'00'")
    kept = get(live, attempt.job_id, "weights.csv")
    assert kept.content == whole.content  # drawn before
    refused(get(live, attempt.job_id, "weights.svg"), 404, "no_picture")
    refused(get(live, attempt.job_id, "misclassified.svg"), 409, "report_damaged")


def test_the_curves_of_a_regression(seeing: Live, regression: str) -> None:
    shown = rows(get(seeing, regression, "fitted.csv"))
    assert len(shown) == 11 * 315
    assert (shown[0], shown[-1][0]) == (["2", "2.0", "0.0", "2.0"], "19")
    asked = get(seeing, regression, "fitted.svg", steps=[7, 3, 0])
    assert {"i=0", "i=3", "i=7", "true function"} <= texts(asked)
    assert "i=19" not in texts(asked)
    problem = refused(get(seeing, regression, "fitted.svg", steps=99), 422, "invalid_parameter")
    assert problem["errors"][0]["detail"].startswith("no curve of 99; there are 0, 1, 2")


def test_the_points_of_a_regression(seeing: Live, regression: str) -> None:
    shown = rows(get(seeing, regression, "samples.csv"))
    assert [row[0] for row in shown] == ["point"] * 50 + ["true"] * 315
    assert "Mean squared error" in texts(get(seeing, regression, "loss.svg"))


@pytest.mark.parametrize("name", ["accuracy", "misclassified", "confusion", "calibration", "weights"])
def test_what_a_regression_does_not_have(seeing: Live, regression: str, name: str) -> None:
    problem = refused(get(seeing, regression, f"{name}.svg"), 409, "not_a_classification")
    assert "regression" in problem["detail"]


def test_what_a_classification_does_not_have(seeing: Live, classifier: str) -> None:
    refused(get(seeing, classifier, "fitted.svg"), 409, "not_a_regression")
    plain = submit(seeing)
    assert "no augmentation" in refused(get(seeing, plain, "augmented.svg"), 404, "no_picture")["detail"]


def test_what_a_job_does_not_have_yet(live: Live) -> None:
    job_id = submit(live)
    for name, code in (
        ("loss", "no_picture"),
        ("weights", "no_picture"),
        ("confusion", "no_report"),
        ("calibration", "no_report"),
        ("misclassified", "no_report"),
    ):
        problem = refused(get(live, job_id, f"{name}.svg"), 404, code)
        assert "queued" in problem["detail"], name
    live.http.post(f"/v1/jobs/{job_id}/cancel")
    assert "ended without" in refused(get(live, job_id, "loss.svg"), 404, "no_picture")["detail"]
    assert "cancelled" in refused(get(live, job_id, "confusion.svg"), 404, "no_report")["detail"]


def test_what_there_is_not(seeing: Live, classifier: str) -> None:
    refused(get(seeing, "job_0", "loss.svg"), 404, "job_not_found")
    problem = refused(get(seeing, classifier, "roc.svg"), 422, "invalid_parameter", "path/name")
    assert all(name in problem["detail"] for name in NAMES)
    problem = refused(get(seeing, classifier, "loss.gif"), 422, "invalid_parameter", "path/format")
    assert all(kind in problem["detail"] for kind in MEDIA_TYPES)


@pytest.mark.parametrize(
    ("file", "query", "detail"),
    [
        ("accuracy.svg", {"log": "true"}, "does not apply to accuracy; it takes axis"),
        ("confusion.svg", {"limit": "3"}, "does not apply to confusion; it takes none"),
        ("loss.svg", {"axis": "time"}, "'step' or 'epoch'"),
        ("misclassified.svg", {"true": "10"}, "less than or equal to 9"),
        ("misclassified.svg", {"limit": "101"}, "less than or equal to 100"),
        ("augmented.svg", {"count": "17"}, "at most 16"),
        ("augmented.svg", {"progress": "1.1"}, "less than or equal to 1"),
        ("samples.svg", {"progress": "1"}, "does not apply to samples"),
        ("loss.svg", {"logs": "true"}, "no such parameter"),
    ],
)
def test_options_that_do_not_fit(
    seeing: Live, classifier: str, file: str, query: dict[str, str], detail: str
) -> None:
    (name,) = query
    answer = get(seeing, classifier, file, **query)
    problem = refused(answer, 422, "invalid_parameter", f"query/{name}")
    assert detail in problem["errors"][0]["detail"]


def test_many_clients_at_once(seeing: Live, classifier: str) -> None:
    paths = [f"/v1/jobs/{classifier}/plots/{name}.png" for name in ("loss", "confusion", "misclassified")]
    alone = {path: seeing.http.get(path).content for path in paths}
    fresh = [f"{path}?{query}" for path in paths[2:] for query in ("limit=16", "limit=9", "limit=4")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda path: (path, seeing.http.get(path)), (paths + fresh) * 4))
    assert all(answer.content == alone[path] for path, answer in found if path in alone)
    assert {answer.status_code for _, answer in found} == {200}


def test_who_would_wait_for_the_pen_is_sent_away(live: Live) -> None:
    attempt = live.claim(submit(live))
    take_figures(live, attempt, 1)
    kept = get(live, attempt.job_id, "loss.svg")
    with ThreadPoolExecutor(12) as pool:
        with picture._drawing:  # one picture that takes long
            asked = [pool.submit(get, live, attempt.job_id, "accuracy.svg") for _ in range(12)]
            eventually(lambda: sum(one.done() for one in asked) == 12 - AT_ONCE)
            assert get(live, attempt.job_id, "loss.svg").content == kept.content
            refused(get(live, attempt.job_id, "loss.png"), 503, "busy_drawing")
        answers_ = [one.result() for one in asked]
    for answer in answers_:
        if answer.status_code != 200:
            refused(answer, 503, "busy_drawing")
            assert answer.headers["Retry-After"] == "1"
    assert sum(answer.status_code == 200 for answer in answers_) == AT_ONCE
    assert get(live, attempt.job_id, "loss.png").status_code == 200
    described = live.http.get("/openapi.json").json()["paths"]
    for path, method in (
        ("/v1/jobs/{job_id}/plots/{name}.{format}", "get"),
        ("/v1/datasets/{name}/samples.{format}", "get"),
        ("/v1/augmentations/preview", "post"),
    ):
        assert "busy_drawing" in described[path][method]["responses"]["503"]["description"]


def test_each_application_keeps_its_own_pictures(
    seeing: Live, classifier: str, tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    assert get(seeing, classifier, "loss.svg").status_code == 200
    with serving(settings_for(tmp_path)) as other:
        contexts = [one.server.application.state.context for one in (seeing, other)]
    for part in ("studio", "shelf", "decoding"):
        assert getattr(contexts[0], part) is not getattr(contexts[1], part)


NEEDS_ITS_SPEC = {"samples", "augmented", "weights"}


def test_a_spec_that_is_not_accepted_any_more_is_no_reason_to_draw_nothing(live: Live) -> None:
    attempt = live.claim(submit(live, augmentation={"rotation": 20}))
    take_figures(live, attempt, 1)
    finish(live, attempt)
    set_spec(live, attempt.job_id, steps=-1)
    for name in NAMES[:-1]:
        answer = get(live, attempt.job_id, f"{name}.svg")
        if name in NEEDS_ITS_SPEC:
            assert "other rules" in refused(answer, 409, "spec_not_accepted")["detail"]
        else:
            assert answer.status_code == 200, answer.text
    refused(get(live, attempt.job_id, "fitted.svg"), 409, "not_a_regression")


def set_spec(live: Live, job_id: str, **changes: Any) -> None:
    """As if another version had stored it."""
    with live.db.write() as connection:
        spec = jobs.get(live.db, job_id).spec | changes
        connection.execute(update(tables.job).where(tables.job.c.id == job_id).values(spec=spec))


def test_any_curve_that_is_stored_can_be_asked_for(live: Live) -> None:
    attempt = live.claim(submit(live, dataset={"name": "simulated"}))
    curves = [Curve(step, float(step), np.zeros(315, np.float32)) for step in range(2500)]
    take_figures(live, attempt, 1, curves=tuple(curves))
    for step in (2, 1001, 2499):
        shown = rows(get(live, attempt.job_id, "fitted.csv", steps=step))
        assert {row[0] for row in shown} == {str(step)}


def test_the_samples_of_a_job_are_none_that_it_holds_out(seeing: Live) -> None:
    dataset = {"name": "mnist", "examples": 40, "validation": 25, "split_seed": 4}
    held_out = np.random.default_rng(4).permutation(40)[:25]
    job_id = submit(seeing, dataset=dataset, batch_size="full", augmentation={"rotation": 20})
    shown = {int(row[0]) for row in rows(get(seeing, job_id, "samples.csv", count=40))}
    assert shown == set(range(40)).difference(held_out.tolist())
    assert "mnist: 15 of 15 training images" in texts(get(seeing, job_id, "samples.svg", count=40))
    variants = rows(get(seeing, job_id, "augmented.csv", count=15))
    assert {int(row[0]) for row in variants} == shown


def test_images_are_deformed_as_at_the_height_of_the_amplitude(seeing: Live) -> None:
    rising = {"rotation": 20.0, "amplitude": [[0, 0], [0.5, 1], [0.9, 1], [1, 0]]}
    job_id = submit(seeing, augmentation=rising)
    unset = rows(get(seeing, job_id, "augmented.csv", count=2))
    assert unset == rows(get(seeing, job_id, "augmented.csv", count=2, progress=0.5))
    start = rows(get(seeing, job_id, "augmented.csv", count=2, progress=0))
    assert [row[3:] for row in start[2:4]] == [row[3:] for row in start[:2]] == [row[3:] for row in unset[:2]]
    assert start != unset


# Datasets


def samples(live: Live, file: str, **query: Any) -> httpx.Response:
    return live.http.get(f"/v1/datasets/{file}", params=query)


def test_samples_of_a_dataset(seeing: Live) -> None:
    shown = rows(samples(seeing, "mnist/samples.csv"))
    assert len(shown) == 16
    assert len({row[0] for row in shown}) == 16
    assert rows(samples(seeing, "mnist/samples.csv", seed=1)) != shown
    assert rows(samples(seeing, "mnist/samples.csv", seed=0, count=3)) != shown
    assert len(rows(samples(seeing, "mnist/samples.csv", count=100))) == 100
    picture = samples(seeing, "mnist/samples.svg")
    assert {"mnist: 16 of 60,000 training images", *(row[1] for row in shown)} == texts(picture)
    png = samples(seeing, "mnist/samples.png")
    assert png.headers["Content-Type"] == "image/png"
    again = seeing.http.get(png.url, headers={"If-None-Match": png.headers["ETag"]})
    assert again.status_code == 304


def test_samples_of_the_simulated(seeing: Live) -> None:
    x, y = simulated.simulate(1000, 0.5, seed=4)
    shown = rows(samples(seeing, "simulated/samples.csv", seed=4))
    assert shown[:1000] == [["point", str(a), str(b)] for a, b in zip(x[:, 0], y[:, 0], strict=True)]
    assert "true function" in texts(samples(seeing, "simulated/samples.svg", count=20))


def test_samples_that_there_are_not(seeing: Live) -> None:
    problem = refused(samples(seeing, "cifar/samples.png"), 404, "dataset_not_found")
    assert "fashion-mnist" in problem["detail"]
    refused(samples(seeing, "mnist/samples.png", count=101), 422, "invalid_parameter", "query/count")
    refused(samples(seeing, "mnist/samples.png", seed=-1), 422, "invalid_parameter", "query/seed")


def test_a_dataset_that_is_not_here_is_not_waited_for(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, data_dir=None)) as live:
        cache = live.settings.cache_dir
        cache.mkdir()
        with FileLock(cache / ".mnist.lock"):  # as if it were being downloaded
            answer = live.http.get("/v1/datasets/mnist/samples.png", timeout=5)
        problem = refused(answer, 503, "dataset_unavailable")
        assert "numeral data fetch mnist" in problem["detail"]
        assert int(answer.headers["Retry-After"]) > 0
        assert [path.name for path in cache.iterdir()] == [".mnist.lock"]
        (cache / "mnist").symlink_to(mnist_folder())  # as a download leaves it
        assert live.http.get("/v1/datasets/mnist/samples.png").status_code == 200


# Previews

ROTATION = {"rotation": 20.0}


def preview(live: Live, **body: Any) -> httpx.Response:
    return live.http.post("/v1/augmentations/preview", json=body)


def test_a_preview_shows_originals_above_and_variants_below(seeing: Live) -> None:
    answer = preview(seeing, augmentation=ROTATION, count=3, variants=2, format="csv")
    shown = rows(answer)
    assert [row[2] for row in shown] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    originals = rows(samples(seeing, "mnist/samples.csv", count=3))
    assert [row[3:] for row in shown[:3]] == [row[2:] for row in originals]
    assert len({tuple(row[3:]) for row in shown}) == 9
    assert preview(seeing, augmentation=ROTATION, count=3, variants=2, format="csv").text == answer.text
    other = preview(seeing, augmentation=ROTATION, count=3, variants=2, format="csv", seed=1)
    assert other.text != answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_preview_is_a_png_unless_it_is_asked_for_as_svg(seeing: Live) -> None:
    picture = preview(seeing, augmentation=ROTATION)
    assert picture.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).format == "PNG"
    assert "variant 3" in texts(preview(seeing, augmentation=ROTATION, format="svg"))


def test_a_preview_follows_the_amplitude(seeing: Live) -> None:
    fading = {"rotation": 20.0, "amplitude": [[0, 1], [1, 0]]}
    body = {"augmentation": fading, "count": 2, "variants": 1, "format": "csv"}
    end = rows(preview(seeing, **body, progress=1))
    assert [row[3:] for row in end[:2]] == [row[3:] for row in end[2:]]  # no deformation is left
    assert rows(preview(seeing, **body)) != end


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/augmentation"),
        ({"augmentation": None}, "#/augmentation"),
        ({"augmentation": {"rotate": 3}}, "#/augmentation/rotate"),
        ({"augmentation": {"rotation": "3"}}, "#/augmentation/rotation"),
        ({"augmentation": {"amplitude": [[1, 1], [0, 1]]}}, "#/augmentation/amplitude"),
        ({"augmentation": {}, "count": 17}, "#/count"),
        ({"augmentation": {}, "variants": 0}, "#/variants"),
        ({"augmentation": {}, "dataset": "simulated"}, "#/dataset"),
        ({"augmentation": {}, "dataset": "cifar"}, "#/dataset"),
        ({"augmentation": {}, "format": "gif"}, "#/format"),
        ({"augmentation": {}, "colour": 1}, "#/colour"),
    ],
)
def test_previews_that_are_refused(seeing: Live, body: dict[str, Any], pointer: str) -> None:
    refused(preview(seeing, **body), 422, "invalid", pointer)


def test_a_preview_of_what_is_not_json(seeing: Live) -> None:
    address = "/v1/augmentations/preview"
    refused(seeing.http.post(address, content=b"{}"), 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json"}
    refused(seeing.http.post(address, content=b"{", headers=headers), 400, "malformed_json")


def test_the_description_of_a_preview_is_accepted(seeing: Live) -> None:
    described = seeing.http.get("/openapi.json").json()
    path = described["paths"]["/v1/augmentations/preview"]["post"]
    content = path["requestBody"]["content"]["application/json"]
    assert content["schema"]["required"] == ["augmentation"]
    assert preview(seeing, **content["example"]).status_code == 200
    assert path["responses"]["200"]["content"].keys() == {"image/svg+xml", "image/png", "text/csv"}


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None  # as if it were not installed
from fastapi.testclient import TestClient
from service.api.app import create_app
from service.settings import load
with TestClient(create_app(load()), base_url="http://localhost") as http:
    answer = http.post("/v1/augmentations/preview", json={"augmentation": {"rotation": 3}})
    others = http.get("/v1/datasets/mnist/samples.png").status_code
    print(json.dumps([answer.status_code, answer.json(), others]))
"""


def test_without_torch_only_deformed_images_are_missing(tmp_path: Path, broker_url: str) -> None:
    environment = {
        "NUMERAL_HOME": str(tmp_path),
        "NUMERAL_BROKER_URL": broker_url,
        "NUMERAL_DATA_DIR": str(mnist_folder()),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    status, problem, others = json.loads(done.stdout.splitlines()[-1])
    assert (status, problem["code"], others) == (501, "needs_torch", 200)
    assert "numeral[train]" in problem["detail"]
