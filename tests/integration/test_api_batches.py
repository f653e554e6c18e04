"""Batches over HTTP, read by a batch worker's own code on the same database: answers, refusals, and whatever stops
one in the middle."""

import base64
import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import delete

from service import bulk
from service.api.predictions import archives, intake
from service.checkpoints import Snapshot, encode_weights, shapes
from service.client import ApiError, Client
from service.data.digits import PREPROCESSING_VERSION
from service.errors import Unavailable
from service.running.lease import Lease
from service.serving.batcher import Batcher
from service.serving.classifier import Classifier
from service.settings import Settings
from service.store import batches
from service.store.batches import Hold
from service.store.tables import chunk
from tests.integration.conftest import LINEAR, Live, eventually, register, serving

BATCHES = "/v1/batches"
OCTETS = {"Content-Type": "application/octet-stream"}
LINES = {"Content-Type": "application/x-ndjson"}


def digits(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(n, 28, 28), as MNIST has them."""
    greys = np.zeros((count, 28, 28), np.uint8)
    greys[:, 4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (count, 20, 20))
    return greys


def png(grey: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def as_lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def with_model(live: Live) -> Live:
    """With a model of random weights."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes(LINEAR).items()
    }
    arrays["input.std"][:] = 1
    data = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)
    register(live, data)
    return live


@pytest.fixture(scope="module")
def api(shared: Live) -> Live:
    """An API with a model; a line may have 65,536 bytes."""
    return with_model(shared)


class StillHeart:
    """Holds leases and renews none."""

    @contextmanager
    def holding(self, attempt: Hold, *, claimed_at: float) -> Iterator[Lease[Hold]]:
        yield Lease(attempt, 60, claimed_at + 60)


@contextmanager
def reading(live: Live) -> Iterator[bulk.Process]:
    """A batch worker's process, in this one; it rings for nobody."""
    batcher, heart = Batcher(live.settings.max_waiting_images), StillHeart()
    batcher.start()
    yield bulk.Process(
        live.settings,
        live.db,
        "w",
        Classifier(live.db),
        batcher,
        heart,  # type: ignore[arg-type]
        Event(),
        lambda _: None,
    )
    batcher.close()


def submit(live: Live, content: Any, **options: Any) -> dict[str, Any]:
    answer = live.http.post(BATCHES, content=content, **options)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{BATCHES}/{found['id']}"
    return found


def shown(live: Live, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = live.http.get(f"{BATCHES}/{batch_id}").json()
    return found


def results(live: Live, batch_id: str) -> list[dict[str, Any]]:
    answer = live.http.get(f"{BATCHES}/{batch_id}/results")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def read(live: Live, content: Any, **options: Any) -> list[dict[str, Any]]:
    """The answers of a batch that is submitted and read."""
    batch_id = submit(live, content, **options)["id"]
    with reading(live) as process:
        process.read(batch_id)
    found = shown(live, batch_id)
    answers = results(live, batch_id)
    assert (found["state"], found["counts"]["done"], found["counts"]["total"]) == (
        "succeeded",
        len(answers),
        len(answers),
    )
    assert found["counts"]["errors"] == sum("error" in answer for answer in answers)
    assert found["results"] == f"{BATCHES}/{batch_id}/results"
    return answers


def predicted(live: Live, **request: Any) -> list[dict[str, Any]]:
    answer = live.http.post("/v1/predict", **request)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def numbered(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a batch has them."""
    return [{"line": line} | one for line, one in enumerate(predictions, 1)]


def chunks(live: Live) -> int:
    with live.db.read() as connection:
        count: int = connection.exec_driver_sql("SELECT count(*) FROM chunk").scalar_one()
    return count


# Answers


def test_lines_are_answered_as_predict_answers(api: Live) -> None:
    greys = digits(6)
    text = base64.b64encode(png(greys[5])).decode()
    images = [*(grey.ravel().tolist() for grey in greys[:5]), text]
    body = as_lines(*images[:4], {"id": "e", "pixels": images[4]}) + b"\n" + as_lines({"image": images[5]})
    answers = read(api, body)
    assert [answer.pop("line") for answer in answers] == [1, 2, 3, 4, 5, 7]
    assert answers[4].pop("id") == "e"
    assert answers == predicted(api, json={"images": images})


@pytest.mark.parametrize("query", ["", "?preprocess=mnist"])
def test_pixels_are_answered_as_predict_answers(api: Live, query: str) -> None:
    raw = digits(200).tobytes()
    found = api.http.post(f"/v1/predict{query}", content=raw, headers=OCTETS).json()["predictions"]
    preprocess = {"preprocess": "mnist"} if query else {}
    assert read(api, raw, headers=OCTETS, params=preprocess) == numbered(found)


def test_a_zip_is_answered_as_predict_answers(api: Live) -> None:
    files = {f"{number}.png": png(grey) for number, grey in enumerate(digits(5))}
    archive = packed(files | {"folder/": b"", "no.txt": b"no picture", "__MACOSX/0.png": b""})
    found = predicted(api, content=archive)
    assert [one["name"] for one in found] == [*files, "no.txt"]
    answers = read(api, archive)
    assert answers[:5] == numbered(found)[:5]
    problem = answers[5].pop("error")
    assert (answers[5], problem["code"]) == ({"line": 6, "name": "no.txt"}, "unsupported_image")
    assert problem["instance"].startswith(f"{BATCHES}/batch_")


def test_many_chunks_are_answered_in_order(api: Live) -> None:
    greys = digits(1000, seed=1)
    whole = read(api, greys.tobytes(), headers=OCTETS)
    assert [answer["line"] for answer in whole] == list(range(1, 1001))
    lines = read(api, as_lines(*(grey.ravel().tolist() for grey in greys)))
    assert [answer["label"] for answer in lines] == [answer["label"] for answer in whole]
    files = {f"{number}": png(grey) for number, grey in enumerate(greys[:150])}
    assert [answer["label"] for answer in read(api, packed(files))] == [
        answer["label"] for answer in whole[:150]
    ]


def test_a_wrong_line_costs_its_own_answer(api: Live) -> None:
    good = digits(1)[0].ravel().tolist()
    answers = read(api, as_lines(good, {"id": 7, "pixels": [1]}) + b"{\n" + b"x" * 70_000 + b"\n[[1]]")
    codes = [answer["error"]["code"] if "error" in answer else None for answer in answers]
    assert codes == [None, "bad_pixels", "malformed_json", "line_too_large", "bad_pixels"]
    assert answers[1]["id"] == 7
    assert answers[1]["error"]["errors"][0]["pointer"] == "#/pixels"


def test_all_is_read_by_the_model_that_was_there_when_it_was_accepted(live: Live) -> None:
    first = live.model(3)
    live.http.put("/v1/aliases/champion", json={"model": "latest"})
    made = submit(live, digits(2).tobytes(), headers=OCTETS, params={"model": "champion"})
    assert made["model_id"] == first.id
    second = live.model(5)
    live.http.put("/v1/aliases/champion", json={"model": "latest"})
    with reading(live) as process:
        process.read(made["id"])
        process.read(made["id"])  # the message came twice
    assert [answer["label"] for answer in results(live, made["id"])] == [3, 3]
    assert submit(live, b"[1]")["model_id"] == second.id


# What cannot be accepted


def test_what_no_batch_can_be_made_of_leaves_nothing(api: Live) -> None:
    good = digits(1)[0]
    refused: list[tuple[bytes, dict[str, str], int, str, str]] = [
        (b"", {}, 422, "no_images", "empty"),
        (b"", OCTETS, 422, "no_images", "empty"),
        (b" \n\n", LINES, 422, "no_images", "no image"),
        (packed({}), {}, 422, "no_images", "no image"),
        (packed({"folder/": b""}), {}, 422, "no_images", "no image"),
        (bytes(785), OCTETS, 422, "bad_pixels", "1 are left over"),
        (b"PK\3\4" + bytes(100), {}, 422, "corrupt_archive", "cannot be read"),
        (png(good), OCTETS, 415, "unsupported_batch", "/v1/predict"),
        (png(good), {}, 415, "unsupported_batch", "/v1/predict"),
        (b"GIF89a", {"Content-Type": "image/gif"}, 415, "unsupported_batch", "found image/gif: send lines"),
        (bytes(784), {}, 415, "unsupported_batch", "found no Content-Type"),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_batch", "itself"),
    ]
    before, rows = api.trace(), chunks(api)
    for content, headers, status, code, said in refused:
        answer = api.http.post(BATCHES, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (content[:20], answer.text)
        assert said in answer.json()["detail"]
    for query, field in (
        ("?preprocess=no", "query/preprocess"),
        ("?scale=percent", "query/scale"),
        ("?modle=latest", "query/modle"),
    ):
        answer = api.http.post(BATCHES + query, content=b"[1]")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, field)
    answer = api.http.post(f"{BATCHES}?model=nobody", content=b"[1]")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert (api.trace(), chunks(api)) == (before, rows)


def test_an_archive_of_too_many_files_is_refused(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_FILES", 3)
    rows = chunks(api)
    for files in ({str(number): b"" for number in range(4)}, {f"{number}/": b"" for number in range(10)}):
        answer = api.http.post(BATCHES, content=packed(files))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")
        assert "send them in parts" in answer.json()["detail"]
    assert chunks(api) == rows


def test_an_archive_of_a_huge_directory_is_refused(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 70_000)  # more than the end of an archive can hold
    rows = chunks(api)
    answer = api.http.post(BATCHES, content=packed({"x" * 60_000 + str(number): b"" for number in range(2)}))
    assert (answer.status_code, answer.json()["code"]) == (413, "archive_too_large")
    assert chunks(api) == rows


def test_entries_are_counted_across_pieces() -> None:
    tally = intake._ArchiveTally(Settings())
    body = (b"x" + archives.CENTRAL + b"yz") * 5
    for size in (1, 2, 3, 5, len(body)):
        tally._entries = 0
        for start in range(0, len(body), size):
            tally.take(body[start : start + size])
        assert tally._entries == 5, size


def test_a_batch_needs_a_model(live: Live) -> None:
    answer = live.http.post(BATCHES, content=b"[1]")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_model")


def test_a_body_over_the_limit_leaves_nothing(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    with serving(settings_for(tmp_path, max_batch_bytes=3 * 2**20)) as live:
        live.model(3)
        before = live.trace()

        def pieces() -> Iterator[bytes]:
            for _ in range(40):
                yield bytes(784 * 128)

        for content in (b"".join(pieces()), pieces()):
            answer = live.http.post(BATCHES, content=content, headers=OCTETS)
            assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
            assert "NUMERAL_MAX_BATCH_BYTES" in answer.json()["detail"]
        assert live.trace() == before
        assert chunks(live) == 1  # of the model
        assert len(read(live, digits(300).tobytes(), headers=OCTETS)) == 300


def test_a_client_that_leaves_in_the_middle_leaves_nothing(api: Live) -> None:
    before, rows = api.trace(), chunks(api)
    host, port = httpx.URL(api.url).host, httpx.URL(api.url).port
    assert port is not None
    with closing(socket.create_connection((host, port))) as connection:
        connection.sendall(
            b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 9000000\r\n\r\n" + bytes(3_000_000)
        )
        eventually(lambda: chunks(api) >= rows + 2)
    eventually(lambda: chunks(api) == rows)
    assert api.trace() == before


def test_a_body_that_takes_too_long_is_refused(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_SECONDS", -1.0)
    answer = api.http.post(BATCHES, content=b"[1]")
    assert (answer.status_code, answer.json()["code"]) == (400, "upload_too_slow")


def test_a_large_body_takes_constant_memory(api: Live) -> None:
    process = psutil.Process()

    def pieces() -> Iterator[bytes]:
        for _ in range(60):
            yield bytes(784 * 1338)  # a MiB

    submit(api, (bytes(784) for _ in range(5000)), headers=OCTETS)
    before = process.memory_info().rss
    made = submit(api, pieces(), headers=OCTETS)
    assert made["counts"]["total"] == 60 * 1338
    assert process.memory_info().rss - before < 30 * 2**20


def test_a_key_makes_one_batch(api: Live) -> None:
    headers = {"Idempotency-Key": "batch-of-mine"}
    first = submit(api, b"[1]", headers=headers)
    rows = chunks(api)
    again = api.http.post(BATCHES, content=b"[1]", headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    for content, query in ((b"[2]", ""), (b"[1]", "?scale=unit")):
        other = api.http.post(BATCHES + query, content=content, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert chunks(api) == rows


# Looking, cancelling, deleting


def test_results_wait_for_the_end(api: Live) -> None:
    made = submit(api, b"[1]")
    assert (made["state"], made["results"], made["counts"]) == (
        "queued",
        None,
        {"total": 1, "done": 0, "errors": 0},
    )
    answer = api.http.get(f"{BATCHES}/{made['id']}/results")
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_not_finished")
    answer = api.http.delete(f"{BATCHES}/{made['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_active")


def test_cancel_while_queued(api: Live) -> None:
    made = submit(api, b"[1]")
    path = f"{BATCHES}/{made['id']}"
    first, second = (api.http.post(f"{path}/cancel") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json() == second.json() == shown(api, made["id"])
    with reading(api) as process:
        process.read(made["id"])
    assert (shown(api, made["id"])["state"], results(api, made["id"])) == ("cancelled", [])
    assert api.http.delete(path).status_code == 204
    for method, where in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/results")):
        answer = api.http.request(method, path + where)
        assert (answer.status_code, answer.json()["code"]) == (404, "batch_not_found"), where


def test_a_batch_that_has_succeeded_cannot_be_cancelled(api: Live) -> None:
    made = submit(api, b"[1]")
    with reading(api) as process:
        process.read(made["id"])
    answer = api.http.post(f"{BATCHES}/{made['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")


def test_the_list_has_pages(live: Live) -> None:
    live.model(3)
    made = [submit(live, b"[1]")["id"] for _ in range(3)]
    live.http.post(f"{BATCHES}/{made[0]}/cancel")
    page = live.http.get(BATCHES, params={"limit": 2}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"], page["next"]) == (
        made[:0:-1],
        True,
        made[1],
    )
    rest = live.http.get(BATCHES, params={"limit": 2, "after": page["next"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"], rest["next"]) == (made[:1], False, None)
    queued = live.http.get(BATCHES, params={"state": "queued"}).json()["data"]
    assert [one["id"] for one in queued] == made[:0:-1]
    assert live.http.get(BATCHES, params={"state": "lost"}).status_code == 422


# Whatever stops it in the middle


def at_chunk(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something when the chunk of that number, from 1, has been stored."""
    append, stored = batches.append, []

    def appended(*given: Any, **named: Any) -> None:
        append(*given, **named)
        stored.append(1)
        if len(stored) == number:
            act()

    monkeypatch.setattr(batches, "append", appended)


class Killed(BaseException):
    """As a signal that leaves no time to tidy up."""


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "lines": (as_lines(*(grey.ravel().tolist() for grey in digits(700))), {}, 700),
    "pixels": (digits(700).tobytes(), OCTETS, 700),
    "archive": (packed({f"{number}": png(grey) for number, grey in enumerate(digits(150))}), {}, 150),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_batch_whose_worker_died_goes_on_where_it_was(
    api: Live, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers, count = BODIES[kind]
    undisturbed = read(api, body, headers=headers)
    batch_id = submit(api, body, headers=headers)["id"]
    at_chunk(monkeypatch, 2, raising(Killed()))
    with reading(api) as process:
        with pytest.raises(Killed):
            process.read(batch_id)
        found = batches.get(api.db, batch_id)
        assert (found.state, 0 < found.done < count) == ("running", True)
        assert found.lease_until is not None
        batches.worker_lost(api.db, Hold(batch_id, 1), reason="lease_expired", lease_until=found.lease_until)
        process.read(batch_id)
    assert results(api, batch_id) == undisturbed
    assert shown(api, batch_id)["attempt"] == 2


def test_a_commit_of_which_nothing_is_known_stores_no_answer_twice(
    api: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database takes the answers and breaks off before it says so."""
    monkeypatch.setattr(bulk, "RETRY_SECONDS", 0.0)
    body, headers, _ = BODIES["pixels"]
    undisturbed = read(api, body, headers=headers)
    batch_id = submit(api, body, headers=headers)["id"]
    at_chunk(monkeypatch, 1, raising(Unavailable("the database cannot be reached")))
    with reading(api) as process:
        process.read(batch_id)
        found = batches.get(api.db, batch_id)
        assert (found.state, found.crashes) == ("queued", 0)
        process.read(batch_id)
    assert results(api, batch_id) == undisturbed


def test_a_worker_that_leaves_hands_the_batch_back(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    body, headers, _ = BODIES["lines"]
    batch_id = submit(api, body, headers=headers)["id"]
    rung: list[str] = []
    with reading(api) as process:
        leaving = replace(process, ring=lambda batch: rung.append(batch.id))
        at_chunk(monkeypatch, 1, leaving.leaving.set)
        leaving.read(batch_id)
        found = batches.get(api.db, batch_id)
        assert (found.state, found.crashes, rung) == ("queued", 0, [batch_id])
        leaving.read(batch_id)
        assert batches.get(api.db, batch_id).state == "queued", "it takes nothing any more"
        replace(process, leaving=Event()).read(batch_id)
    assert len(results(api, batch_id)) == 700


def test_cancel_while_running_keeps_what_was_done(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    body, headers, _ = BODIES["pixels"]
    batch_id = submit(api, body, headers=headers)["id"]
    at_chunk(monkeypatch, 1, lambda: api.http.post(f"{BATCHES}/{batch_id}/cancel"))
    with reading(api) as process:
        process.read(batch_id)
    assert shown(api, batch_id)["state"] == "cancelled"
    assert [answer["line"] for answer in results(api, batch_id)] == list(range(1, 257))


def test_a_batch_that_is_deleted_while_it_is_read_is_let_go(
    api: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers, _ = BODIES["pixels"]
    batch_id = submit(api, body, headers=headers)["id"]

    def delete_it() -> None:
        api.http.post(f"{BATCHES}/{batch_id}/cancel")
        assert api.http.delete(f"{BATCHES}/{batch_id}").status_code == 204

    at_chunk(monkeypatch, 1, delete_it)
    with reading(api) as process:
        process.read(batch_id)
    assert api.http.get(f"{BATCHES}/{batch_id}").status_code == 404


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_damaged_fails_the_batch_with_the_reason(api: Live, kind: str) -> None:
    body, headers, _ = BODIES[kind]
    batch_id = submit(api, body, headers=headers)["id"]
    with api.db.write() as connection:
        connection.execute(delete(chunk).where(chunk.c.blob_id == batches.get(api.db, batch_id).body_blob))
    with reading(api) as process:
        process.read(batch_id)
    found = shown(api, batch_id)
    assert (found["state"], found["error"]["code"]) == ("failed", "body_damaged")
    assert results(api, batch_id) == []


def test_a_mistake_of_ours_fails_the_batch(api: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = submit(api, b"[1]")["id"]
    monkeypatch.setattr(bulk, "written", raising(RuntimeError("odd")))
    with reading(api) as process:
        process.read(batch_id)
    assert shown(api, batch_id)["error"]["code"] == "internal_error"


# The client


def test_the_client_sends_and_fetches(api: Live) -> None:
    with Client(api.url) as client, reading(api) as process:
        lines = as_lines(*(grey.ravel().tolist() for grey in digits(3)))
        made = client.batches.create(lines, model="latest")
        process.read(made.id)
        done = client.batches.wait(made.id)
        assert (done.state, done.ended, done.counts["done"]) == ("succeeded", True, 3)
        assert [json.loads(line)["line"] for line in client.batches.lines(made.id)] == [1, 2, 3]
        assert [digit.label for digit in client.batches.results(made.id)] == [
            json.loads(line)["label"] for line in client.batches.lines(made.id)
        ]
        other = client.batches.create([digits(2).tobytes()], media_type=OCTETS["Content-Type"])
        assert [one.id for one in client.batches.list(limit=1)] == [other.id]
        assert client.batches.cancel(other.id).state == "cancelled"
        client.batches.delete(other.id)
        with pytest.raises(ApiError, match="no batch"):
            client.batches.get(other.id)
        with pytest.raises(ApiError, match="no batch"):
            list(client.batches.results(other.id))
