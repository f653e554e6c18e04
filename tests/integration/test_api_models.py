"""Models, aliases, and the hot swap."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from service.store import models
from tests.integration.conftest import Live, eventually

PIXELS = {"images": [[0] * 784]}


def read(live: Live, reference: str | None = None) -> int:
    path = "/v1/predict" if reference is None else f"/v1/models/{reference}/predict"
    answer = live.http.post(path, json=PIXELS)
    assert answer.status_code == 200, answer.text
    label: int = answer.json()["predictions"][0]["label"]
    return label


def test_models_are_listed_and_found_by_every_name(live_on_each: Live) -> None:
    live = live_on_each
    made = [live.model(label) for label in (1, 2, 3)]
    live.http.put("/v1/aliases/champion", json={"model": made[0].id})
    page = live.http.get("/v1/models?limit=2").json()
    rest = live.http.get("/v1/models", params={"after": page["next"]}).json()
    listed = page["data"] + rest["data"]
    assert [model["id"] for model in listed] == [model.id for model in made[::-1]]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert [model["aliases"] for model in listed] == [["latest"], [], ["champion"]]
    for reference, index in ((made[1].id, 1), ("latest", 0), ("champion", 2)):
        assert live.http.get(f"/v1/models/{reference}").json() == listed[index]
    download = live.http.get("/v1/models/champion/download", follow_redirects=True)
    assert download.headers["ETag"] == f'"{made[0].weights_sha256}"'
    job = live.http.get(f"/v1/jobs/{made[2].job_id}").json()
    assert (job["state"], job["model_id"], job["weights_sha256"]) == (
        "succeeded",
        made[2].id,
        made[2].weights_sha256,
    )


def test_an_alias_moves_and_goes_back(live_on_each: Live) -> None:
    live = live_on_each
    made = [live.model(label) for label in (1, 2)]
    first = live.http.put("/v1/aliases/champion", json={"model": made[0].id})
    assert (first.status_code, first.json()["model"], first.json()["seq"]) == (200, made[0].id, 1)
    assert read(live, "champion") == 1  # at once, in the process that was asked
    assert live.http.put("/v1/aliases/champion", json={"model": "latest"}).json()["seq"] == 2
    assert read(live, "champion") == 2
    assert live.http.put("/v1/aliases/champion", json={"model": made[1].id}).json()["seq"] == 2
    assert live.http.post("/v1/aliases/champion/rollback").json()["model"] == made[0].id
    assert read(live, "champion") == 1
    refused = live.http.post("/v1/aliases/champion/rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "no_earlier_model")
    found = live.http.get("/v1/aliases/champion").json()
    assert [move["action"] for move in found["history"]] == ["rollback", "set", "set"]
    assert [alias["name"] for alias in live.http.get("/v1/aliases").json()["data"]] == ["champion"]


@pytest.mark.parametrize("name", ["Champion", "-x", "x" * 64, "a b", "%C3%BC"])
def test_a_name_that_is_none(shared: Live, name: str) -> None:
    answer = shared.http.put(f"/v1/aliases/{name}", json={"model": "latest"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_what_an_alias_may_not_be(live: Live) -> None:
    live.model(1)
    before = live.trace()
    for name, body, status, code in (
        ("latest", {"model": "latest"}, 422, "reserved_alias"),
        ("model_x", {"model": "latest"}, 422, "reserved_alias"),
        ("x", {"model": "none-such"}, 404, "model_not_found"),
        ("x", {"model": 3}, 422, "invalid"),
        ("x", {}, 422, "invalid"),
        ("x", {"model": "latest", "force": True}, 422, "invalid"),
    ):
        answer = live.http.put(f"/v1/aliases/{name}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    for answer in (live.http.get("/v1/aliases/x"), live.http.post("/v1/aliases/x/rollback")):
        assert (answer.status_code, answer.json()["code"]) == (404, "alias_not_found")
    assert live.trace() == before


def test_a_new_model_and_a_moved_alias_are_served_soon(live_on_each: Live) -> None:
    live = live_on_each
    made = live.model(4)
    assert read(live) == 4
    models.set_alias(live.db, "champion", made.id)  # by another process
    live.model(5)
    eventually(lambda: read(live) == 5, seconds=3)
    assert read(live, "champion") == 4
    assert read(live, made.id) == 4


def all_see(labels: list[list[int]], label: int) -> bool:
    return all(seen and seen[-1] == label for seen in labels)


def test_a_swap_under_load_fails_no_request(live: Live) -> None:
    live.model(0)
    labels: list[list[int]] = [[], [], []]
    stopping = threading.Event()

    def load(seen: list[int]) -> None:
        while not stopping.is_set():
            seen.append(read(live))

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(load, seen) for seen in labels]
        try:
            for label in range(1, 5):
                live.model(label)
                eventually(partial(all_see, labels, label))
        finally:
            stopping.set()
        for running in loads:
            running.result()  # raises what failed

    assert all(seen == sorted(seen) for seen in labels)  # never back to an older one


def test_a_model_of_a_preprocessing_that_is_not_known_here(live: Live) -> None:
    """As an older API finds it beside a newer worker."""
    known, newer = live.model(3), live.model(5)
    eventually(lambda: read(live) == 5)
    live.http.put("/v1/aliases/champion", json={"model": known.id})
    later = live.model(7)
    with live.db.write() as connection:
        connection.exec_driver_sql(f"UPDATE model SET preprocessing = '99' WHERE id = '{later.id}'")  # noqa: S608
    seven = (Path(__file__).parents[2] / "docs" / "images" / "seven.png").read_bytes()
    for path in (f"/v1/models/{later.id}/predict", f"/v1/models/{later.id}/read"):
        answer = live.http.post(path, content=seven)
        assert (answer.status_code, answer.json()["code"]) == (409, "unknown_preprocessing")
        assert "'99'" in answer.json()["detail"]
        assert "1, 2" in answer.json()["detail"]
    assert (read(live, "champion"), read(live, newer.id)) == (3, 5)


DAMAGE = """CREATE TRIGGER damage AFTER INSERT ON chunk
BEGIN UPDATE chunk SET data = x'00' WHERE blob_id = NEW.blob_id; END"""


def test_a_damaged_newest_model_leaves_the_one_before_in_service(live: Live) -> None:
    def model_check() -> str:
        return str(live.http.get("/readyz").json()["checks"]["model"])

    live.model(1)
    eventually(lambda: model_check() == "ready")
    with live.db.write() as connection:
        connection.exec_driver_sql(DAMAGE)
    damaged = live.model(2)
    eventually(lambda: damaged.id in model_check())

    assert read(live) == 1
    refused = live.http.post(f"/v1/models/{damaged.id}/predict", json=PIXELS)
    assert (refused.status_code, refused.json()["code"]) == (409, "model_damaged")
    with live.db.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER damage")
    live.model(3)
    eventually(lambda: read(live) == 3)
    assert model_check() == "ready"


def test_a_regression_reads_no_digits(live: Live) -> None:
    made = live.model(1)
    with live.db.write() as connection:
        connection.exec_driver_sql("UPDATE model SET task = 'regression'")
    live.http.put("/v1/aliases/curve", json={"model": made.id})
    for reference in ("curve", made.id):
        refused = live.http.post(f"/v1/models/{reference}/predict", json=PIXELS)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_a_classifier")
    assert live.http.post("/v1/predict", json=PIXELS).json()["code"] == "no_model"
