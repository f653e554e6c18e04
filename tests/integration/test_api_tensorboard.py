"""The series of a job as an event file, read back by TensorBoard itself."""

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from service.api.jobs import tensorboard
from service.store import attempts, metrics
from service.store.attempts import Point
from tests.integration.conftest import Live
from tests.unit.halves import HALVES, connected

PATH = "/v1/jobs/{}/metrics.tfevents"


def trained(live: Live, points: list[Point]) -> str:
    """The id of a job that has these values."""
    job_id = live.submit()
    attempts.write_progress(live.db, live.claim(job_id), progress={}, points=points)
    return job_id


def series(folder: Path) -> dict[str, list[ScalarEvent]]:
    """All scalars of a run, as TensorBoard loads them."""
    run = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    run.Reload()
    return {tag: run.Scalars(tag) for tag in run.Tags()["scalars"]}


def test_tensorboard_reads_each_value_with_its_step_and_its_time(
    live_on_each: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = live_on_each
    monkeypatch.setattr(tensorboard, "VALUES_A_PIECE", 7)
    steps = [0, 1, 127, 128, 300, 2**31, 2**53 - 1]
    job_id = trained(
        live, [Point(name, step, 0.5, step / 3) for name in ("a_loss", "b_loss") for step in steps]
    )

    answer = live.http.get(PATH.format(job_id))

    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="events.out.tfevents.{job_id}"'
    (tmp_path / f"events.out.tfevents.{job_id}").write_bytes(answer.content)
    found = series(tmp_path)
    told = live.http.get(f"/v1/jobs/{job_id}/metrics").json()["data"]
    assert [(name, event.step) for name, events in found.items() for event in events] == [
        (point["name"], point["step"]) for point in told
    ]
    stored, _ = metrics.page(live.db, job_id, limit=100)
    for event, value in zip(found["a_loss"] + found["b_loss"], stored, strict=True):
        assert event.wall_time == value.time
        assert event.value == pytest.approx(value.value, rel=1e-7)


def test_values_that_float32_does_not_hold(live: Live, tmp_path: Path) -> None:
    job_id = trained(
        live, [Point("loss", 1, 0, 1e300), Point("loss", 2, 0, -1e-300), Point("loss", 3, 0, 0.1)]
    )
    (tmp_path / "events.out.tfevents.1").write_bytes(live.http.get(PATH.format(job_id)).content)
    values = [event.value for event in series(tmp_path)["loss"]]
    assert values[:2] == [math.inf, 0.0]
    assert values[2] == pytest.approx(0.1, rel=1e-7)


def test_both_checksums_are_right(live: Live, tmp_path: Path) -> None:
    """TensorBoard's reader, which is known to look at them, takes the file whole and refuses it with a bit turned."""
    data = live.http.get(PATH.format(trained(live, [Point("loss", 1, 0, 1.0)]))).content
    assert records(tmp_path / "whole", data) == 2
    first = int.from_bytes(data[:8], "little")
    for place in (0, 8, 12, 12 + first):  # of the first length, its checksum, the data, its checksum
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(DataLossError):
            records(tmp_path / str(place), bytes(broken))


def records(file: Path, data: bytes) -> int:
    """How many there are."""
    file.write_bytes(data)
    reader, count = PyRecordReader_New(str(file)), 0
    while True:
        try:
            reader.GetNext()
        except OutOfRangeError:
            return count
        count += 1


def test_a_job_without_values_is_an_empty_run(live: Live, tmp_path: Path) -> None:
    answer = live.http.get(PATH.format(live.submit()))
    (tmp_path / "events.out.tfevents.1").write_bytes(answer.content)
    assert answer.status_code == 200
    assert series(tmp_path) == {}


def test_there_is_none_of_a_job_that_is_not_there(live: Live) -> None:
    answer = live.http.get(PATH.format("job_0"))
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("half", HALVES)
def test_the_client_makes_each_job_a_run(half: str, live: Live, tmp_path: Path) -> None:
    ids = [trained(live, [Point("loss", step, 0, 1.0)]) for step in (3, 4)]
    with connected(half, live.url) as client:
        for job_id in ids + ids:  # the second time over the first
            file = client.jobs.get(job_id).tensorboard(tmp_path / "runs")
            assert file == tmp_path / "runs" / job_id / f"events.out.tfevents.{job_id}"
    runs = {folder.name: series(folder)["loss"][0].step for folder in (tmp_path / "runs").iterdir()}
    assert runs == dict(zip(ids, (3, 4), strict=True))
    assert not list(tmp_path.rglob("*.part"))
