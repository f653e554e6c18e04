"""The loop: what was read wrong is kept, labelled, learnt from, and promoted only if nothing got worse."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from service.checkpoints import Snapshot, encode_weights, shapes
from service.data import datasets
from service.data.digits import PREPROCESSING_VERSION
from service.errors import Conflict
from service.settings import Settings
from service.spec import DatasetSpec
from service.store import models
from service.store.models import Model
from tests.archives import examples, zipped
from tests.conftest import mnist_folder
from tests.integration.conftest import LINEAR, Live, register, serving, weights_for

OCTETS = {"Content-Type": "application/octet-stream"}
IMAGES = examples(3)[0].reshape(3, 784)


def keep(live: Live, images: Any = IMAGES, **params: Any) -> list[str]:
    """The ids under which the images are kept."""
    answer = live.http.post(
        "/v1/predict", params={"store": True, **params}, content=images.tobytes(), headers=OCTETS
    )
    assert answer.status_code == 200, answer.text
    return [one["feedback_id"] for one in answer.json()["predictions"]]


def label(live: Live, sample: str, value: int | None) -> dict[str, Any]:
    answer = live.http.put(f"/v1/feedback/{sample}/label", json={"label": value})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_nothing_is_kept_unless_it_is_asked_for(live: Live) -> None:
    live.model(4)
    for params in ({}, {"store": False}, {"include": "image"}):
        answer = live.http.post("/v1/predict", params=params, content=IMAGES.tobytes(), headers=OCTETS)
        assert "feedback_id" not in answer.json()["predictions"][0]
    assert live.http.get("/v1/feedback").json() == {
        "data": [], "has_more": False, "next": None, "kept": 0, "labelled": 0
    }  # fmt: skip


def test_kept_images_are_labelled_listed_and_deleted(live_on_each: Live) -> None:
    live = live_on_each
    model = live.model(4)
    first, second, third = keep(live, min_confidence=0.999999)
    page = live.http.get("/v1/feedback", params={"limit": 2}).json()
    assert [one["id"] for one in page["data"]] == [third, second]
    rest = live.http.get("/v1/feedback", params={"after": page["next"]}).json()
    assert [one["id"] for one in rest["data"]] == [first]
    one = rest["data"][0]
    assert one == live.http.get(f"/v1/feedback/{first}").json()
    assert (one["model"], one["predicted"], one["label"]) == (model.id, 4, None)
    assert one["confidence"] > 0.9
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(one["image"].partition(",")[2]), np.uint8), -1)
    assert pixels is not None
    assert (pixels.reshape(784) == IMAGES[0]).all()
    assert label(live, first, 7)["label"] == 7
    assert label(live, second, 3)["labelled_at"] is not None
    assert label(live, second, None)["labelled_at"] is None
    for labelled, wanted in ((True, [first]), (False, [third, second])):
        found = live.http.get("/v1/feedback", params={"labelled": labelled}).json()
        assert [one["id"] for one in found["data"]] == wanted
        assert (found["kept"], found["labelled"]) == (3, 1)
    assert live.http.delete(f"/v1/feedback/{first}").status_code == 204
    for answer in (
        live.http.get(f"/v1/feedback/{first}"),
        live.http.delete(f"/v1/feedback/{first}"),
        live.http.put(f"/v1/feedback/{first}/label", json={"label": 1}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "feedback_not_found")
    wrong = live.http.put(f"/v1/feedback/{third}/label", json={"label": 10})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "#/label")


def test_an_image_that_cannot_be_read_is_not_kept(live: Live) -> None:
    live.model(4)
    picture = bytes(cv2.imencode(".png", IMAGES[0].reshape(28, 28))[1])
    answer = live.http.post(
        "/v1/predict", params={"store": True}, content=zipped({"a.png": b"x", "b.png": picture})
    )
    unread, read = answer.json()["predictions"]
    assert unread["error"]["status"] in (415, 422)
    assert live.http.get("/v1/feedback").json()["data"][0]["id"] == read["feedback_id"]


def test_a_limit_keeps_all_or_none(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    with serving(settings_for(tmp_path / "few", max_feedback=4)) as live:
        live.model(4)
        keep(live)
        answer = live.http.post(
            "/v1/predict", params={"store": True}, content=IMAGES.tobytes(), headers=OCTETS
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "feedback_full")
        assert live.http.get("/v1/feedback").json()["kept"] == 3
        assert len(keep(live, IMAGES[:1])) == 1
    with serving(settings_for(tmp_path / "none", max_feedback=0)) as live:
        live.model(4)
        answer = live.http.post(
            "/v1/predict", params={"store": True}, content=IMAGES.tobytes(), headers=OCTETS
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "feedback_off")


def test_labelled_images_become_a_dataset_that_never_changes(live_on_each: Live) -> None:
    live = live_on_each
    live.model(4)
    none = live.http.post("/v1/feedback/dataset", json={})
    assert (none.status_code, none.json()["code"]) == (409, "nothing_labelled")
    first, second, again = *keep(live, IMAGES[:2]), *keep(live, IMAGES[:1])
    label(live, first, 1)
    label(live, second, 2)
    label(live, again, 3)  # the same image: the last word counts
    made = live.http.post("/v1/feedback/dataset", json={})
    dataset = made.json()
    assert (made.status_code, dataset["name"], dataset["source"]) == (201, "feedback", "feedback")
    assert dataset["classes"]["train"] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    same = live.http.post("/v1/feedback/dataset", json={"name": "feedback"})
    assert (same.status_code, same.json()) == (200, dataset)
    label(live, second, 5)
    newer = live.http.post("/v1/feedback/dataset", json={}).json()
    assert newer["version"] > dataset["version"]
    for sample in (first, second, again):
        live.http.delete(f"/v1/feedback/{sample}")
    assert live.http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    spec = {"dataset": {"uploads": [dataset["id"], newer["id"]]}}
    told = live.http.post(
        "/v1/jobs", params={"dry_run": True}, json={"preset": "slp-200", "spec": spec}
    ).json()
    assert [one["train_examples"] for one in told["spec"]["dataset"]["uploads"]] == [2, 2]


def test_the_same_images_at_once_make_one_dataset(live_on_each: Live) -> None:
    live = live_on_each
    live.model(4)
    label(live, keep(live, IMAGES[:1])[0], 1)

    def collect(_: int) -> tuple[int, str]:
        answer = live.http.post("/v1/feedback/dataset", json={})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(collect, range(4)))
    assert sorted(status for status, _ in made) == [200, 200, 200, 201]
    assert len({identifier for _, identifier in made}) == 1


@pytest.fixture(scope="module")
def mnist_means() -> Any:
    """The mean image of each digit of MNIST's test set: a reader by likeness."""
    data = datasets.load(DatasetSpec(), cache_dir=mnist_folder(), data_dir=mnist_folder())
    images, labels = data.test_inputs / 255.0, data.test_targets
    return np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])


def reader(live: Live, means: Any, *, blind: tuple[int, ...] = ()) -> Model:
    """A linear model that reads by likeness, but for the digits that it never says."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"] += 1
    arrays["layers.0.weight"] = means.astype(np.float32)
    arrays["layers.0.bias"] = (-0.5 * (means**2).sum(axis=1)).astype(np.float32)
    arrays["layers.0.bias"][list(blind)] -= 1000
    data = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)
    return register(live, data)


@pytest.fixture
def at_hand(tmp_path: Path, settings_for: Callable[..., Settings], database_url: str) -> Any:
    """An API with MNIST at hand."""
    with serving(settings_for(tmp_path, data_dir=mnist_folder(), database_url=database_url)) as running:
        yield running


def test_a_worse_model_is_not_promoted(at_hand: Live, mnist_means: Any) -> None:
    live = at_hand
    whole, blind = reader(live, mnist_means), reader(live, mnist_means, blind=(7,))
    first = live.http.post("/v1/aliases/champion/promote", json={"model": whole.id}).json()
    assert (first["model"], first["seq"], first["gate"]) == (whole.id, 1, None)
    refused = live.http.post("/v1/aliases/champion/promote", json={"model": "latest"})
    assert (refused.status_code, refused.json()["code"]) == (409, "worse_than_present")
    gate = refused.json()["gate"]
    assert (gate["present"], gate["candidate"], gate["passed"]) == (whole.id, blind.id, False)
    assert (gate["examples"], gate["dataset"], gate["level"]) == (10_000, "mnist", 0.05)
    assert gate["accuracy_present"] > 0.8 > gate["accuracy_candidate"]
    assert gate["only_present_right"] > 500
    difference = gate["only_present_right"] - gate["only_candidate_right"]
    assert difference == round(10_000 * (gate["accuracy_present"] - gate["accuracy_candidate"]))
    assert gate["p_value"] < 1e-100
    assert str(gate["only_present_right"]) in refused.json()["detail"]
    assert live.http.get("/v1/aliases/champion").json()["model"] == whole.id

    live.http.put("/v1/aliases/champion", json={"model": blind.id})  # without a test
    better = live.http.post("/v1/aliases/champion/promote", json={"model": whole.id}).json()
    assert (better["model"], better["gate"]["passed"]) == (whole.id, True)
    assert better["gate"]["p_value"] > 0.999
    again = live.http.post("/v1/aliases/champion/promote", json={"model": whole.id}).json()
    assert (again["seq"], again["gate"]) == (better["seq"], None)
    assert live.http.post("/v1/aliases/champion/rollback").json()["model"] == blind.id


def test_an_equal_model_is_promoted(at_hand: Live, mnist_means: Any) -> None:
    live = at_hand
    one, other = reader(live, mnist_means), reader(live, mnist_means + 1e-9)
    live.http.put("/v1/aliases/champion", json={"model": one.id})
    found = live.http.post("/v1/aliases/champion/promote", json={"model": other.id, "level": 0.5}).json()
    assert (found["model"], found["gate"]["passed"], found["gate"]["level"]) == (other.id, True, 0.5)


def test_an_alias_that_moves_meanwhile_is_left_alone(live_on_each: Live) -> None:
    made = [live_on_each.model(digit) for digit in range(3)]
    models.set_alias(live_on_each.db, "champion", made[0].id, at_seq=0)
    for seq in (0, 2):
        with pytest.raises(Conflict) as refusal:
            models.set_alias(live_on_each.db, "champion", made[1].id, at_seq=seq)
        assert refusal.value.code == "alias_moved"
    assert models.set_alias(live_on_each.db, "champion", made[1].id, at_seq=1)[0].seq == 2
    with pytest.raises(Conflict):
        models.set_alias(live_on_each.db, "new", made[1].id, at_seq=1)
    assert live_on_each.http.get("/v1/aliases/new").status_code == 404


def test_without_the_test_set_the_gate_says_what_to_do(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, data_dir=None)) as live:
        register(live, weights_for(1))
        live.http.put("/v1/aliases/champion", json={"model": "latest"})
        register(live, weights_for(2))
        answer = live.http.post("/v1/aliases/champion/promote", json={"model": "latest"})
    assert (answer.status_code, answer.json()["code"]) == (503, "dataset_unavailable")
    assert "numeral data fetch mnist" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_the_path_that_makes_a_dataset_has_one_method(live: Live, method: str) -> None:
    answer = live.http.request(method, "/v1/feedback/dataset")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
