# Written by service.client.unasync from awaiting/jobs.py; change that.
"""Training jobs: `client.jobs`."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from pydantic import PrivateAttr

from service.client.blocking.connection import Connection
from service.client.following import AWAY_SECONDS, Following
from service.client.halves import pause, tell
from service.client.requests import Request, creation, given, path_of
from service.client.views import Checkpoint, Event, JobFacts, JobPlan, Mistake, Point, Progress

POINTS_A_PAGE = 10_000


class Job(JobFacts):
    """A training job, as it was when it was asked for; its methods ask again."""

    _jobs: "Jobs | None" = PrivateAttr(None)

    def refresh(self) -> "Job":
        """The job as it is now."""
        return self._all().get(self.id)

    def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], Any] | None = None,
    ) -> "Job":
        """The job when it has ended: see `client.jobs.wait`."""
        return self._all().wait(self.id, timeout=timeout, on_progress=on_progress)

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """What happened to it and what happens: see `client.jobs.events`."""
        return self._all().events(self.id, after=after)

    def cancel(self) -> "Job":
        return self._all().cancel(self.id)

    def pause(self) -> "Job":
        return self._all().pause(self.id)

    def resume(self) -> "Job":
        return self._all().resume(self.id)

    def report(self) -> dict[str, Any]:
        """How good it is, once it has succeeded."""
        return self._all().report(self.id)

    def series(self, *names: str, max_points: int | None = None) -> Iterator[Point]:
        """Its series: see `client.jobs.series`."""
        return self._all().series(self.id, *names, max_points=max_points)

    def tensorboard(self, folder: str | os.PathLike[str]) -> Path:
        """Its series as a run of TensorBoard: see `client.jobs.tensorboard`."""
        return self._all().tensorboard(self.id, folder)

    def _all(self) -> "Jobs":
        if self._jobs is None:
            raise ValueError("this job came from no client")
        return self._jobs


class Jobs:
    """`client.jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        reuse: bool = False,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job: a spec, a preset, or a preset with a spec laid over it. With `reuse`, a job that has
        succeeded with just this spec, data and code is returned instead, if there is one. Raises InvalidSpec, whose
        `errors` name the fields."""
        body = given(preset=preset, spec=spec, metadata=metadata, priority=priority)
        params = {"reuse": True} if reuse else {}
        request = creation("/v1/jobs", idempotency_key, json=body, params=params)
        return self._job(self._connection.json(request))

    def dry_run(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        reuse: bool = False,
    ) -> JobPlan:
        """What a job would come to: parameters, memory, steps, time, place in the queue; with `reuse` also
        which job would be returned instead."""
        body = given(preset=preset, spec=spec, metadata=metadata, priority=priority)
        params = {"dry_run": True} | ({"reuse": True} if reuse else {})
        answer = self._connection.json(Request("POST", "/v1/jobs", json=body, params=params))
        return JobPlan.model_validate(answer)

    def get(self, job_id: str) -> Job:
        return self._job(self._connection.json(Request("GET", path_of("jobs", job_id))))

    def list(
        self,
        *,
        state: str | Sequence[str] | None = None,
        preset: str | None = None,
        sweep: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, `limit` at most, page by page as they are iterated."""
        params = given(state=state, preset=preset, sweep=sweep)
        return self._connection.pages("/v1/jobs", self._job, params, limit=limit)

    def update(
        self, job_id: str, *, metadata: Mapping[str, Any] | None = None, priority: int | None = None
    ) -> Job:
        """Change its metadata at any time, its priority until it has ended."""
        body = given(metadata=metadata, priority=priority)
        return self._job(self._connection.json(Request("PATCH", path_of("jobs", job_id), json=body)))

    def cancel(self, job_id: str) -> Job:
        """End it; its checkpoints stay."""
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Let it save and stop for now."""
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        return self._act(job_id, "resume")

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with all but the model that it made."""
        self._connection.json(Request("DELETE", path_of("jobs", job_id)))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """A job's events, those there are and then live, to its end. A connection that breaks is made
        anew from the last event seen: none is missed, none comes twice. Raises Unreachable when the server is away
        for two minutes."""
        return self._followed(Following(job_id, after, time.monotonic()))

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], Any] | None = None,
    ) -> Job:
        """The job when it has ended, however it ended; a server that is started anew meanwhile is waited for. Raises
        TimedOut after `timeout` seconds, and then the job goes on; Unreachable if the server is away then, or for two
        minutes. `on_progress` is told where it has been and then, about once a second, where it is."""
        following = Following(job_id, 0, time.monotonic(), timeout)
        with closing(self._followed(following)) as events:
            for event in events:
                if event.type == "progress":
                    tell(on_progress, Progress.model_validate(event.data))
        request = Request("GET", path_of("jobs", job_id))
        return self._job(self._connection.json(request, patience=AWAY_SECONDS))

    def _followed(self, following: Following) -> Generator[Event, None, None]:
        while True:
            request = following.request(time.monotonic())
            try:
                with self._connection.stream(
                    request, patience=following.patience(time.monotonic()), read=following.read_seconds
                ) as response:
                    for line in response.iter_lines():
                        event = following.take(line, time.monotonic())
                        if event is not None:
                            yield event
                        if following.ended() or following.is_near(time.monotonic()):
                            break
            except httpx.TransportError as error:
                following.broke(error, time.monotonic())
            if following.ended() or self._is_over(following):
                return
            pause(following.pause(time.monotonic()))

    def _is_over(self, following: Following) -> bool:
        """Whether a stream that has stopped has told everything; else it was cut off."""
        patience = following.patience(time.monotonic())
        path = path_of("jobs", following.job_id)
        job = self._connection.json(Request("GET", path), patience=patience)
        if not JobFacts.model_validate(job).ended:
            return False
        request = Request("GET", f"{path}/events", params={"after": following.last, "limit": 1})
        page = self._connection.json(request, patience=patience)
        return not page["data"]

    def series(
        self, job_id: str, *names: str, after_step: int | None = None, max_points: int | None = None
    ) -> Iterator[Point]:
        """Its series, all or those of these names, each thinned evenly to `max_points`, ordered by name and step."""
        params = given(name=names or None, after_step=after_step, max_points=max_points)
        path = path_of("jobs", job_id, "metrics")
        return self._connection.pages(path, Point.model_validate, params, limit=None, size=POINTS_A_PAGE)

    def tensorboard(self, job_id: str, folder: str | os.PathLike[str]) -> Path:
        """Its series so far as an event file, FOLDER/JOB/events.out.tfevents.JOB: a run below `tensorboard --logdir
        FOLDER`, written over when it is there. Raises Unreachable when the answer breaks off."""
        self.get(job_id)  # or there is nothing to make a folder for
        run = Path(folder) / job_id
        run.mkdir(parents=True, exist_ok=True)
        request = Request("GET", path_of("jobs", job_id, "metrics.tfevents"))
        file = run / f"events.out.tfevents.{job_id}"
        return self._connection.file(request, file, what=f"the series of {job_id}")

    def report(self, job_id: str) -> dict[str, Any]:
        """How good a finished job is."""
        return dict(self._connection.json(Request("GET", path_of("jobs", job_id, "report"))))

    def misclassified(
        self,
        job_id: str,
        *,
        true: int | None = None,
        predicted: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Mistake]:
        """The test images that it reads wrong, by loss, the largest first."""
        params = given(true=true, predicted=predicted)
        path = path_of("jobs", job_id, "misclassified")
        return self._connection.pages(path, Mistake.model_validate, params, limit=limit)

    def curves(self, job_id: str) -> dict[str, Any]:
        """What a regression predicted over its test grid, each time figures were taken."""
        return dict(self._connection.json(Request("GET", path_of("jobs", job_id, "curves"))))

    def checkpoints(self, job_id: str) -> Iterator[Checkpoint]:
        """Those that are kept, newest first."""
        path = path_of("jobs", job_id, "checkpoints")
        return self._connection.whole(path, Checkpoint.model_validate)

    def plot(
        self,
        job_id: str,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture of the job as `png` or `svg`, or its numbers as `csv`; `options` are those of the picture,
        such as `true` and `predicted` of `misclassified`."""
        path = path_of("jobs", job_id, "plots", f"{name}.{format}")
        return self._connection.bytes(Request("GET", path, params=options or {}))

    def compare(self, job_ids: Sequence[str]) -> dict[str, Any]:
        """Finished jobs side by side: their series, where their specs differ, and for each two that classify
        McNemar's test."""
        request = Request("GET", "/v1/compare", params={"jobs": ",".join(job_ids)})
        return dict(self._connection.json(request))

    def _act(self, job_id: str, verb: str) -> Job:
        return self._job(self._connection.json(Request("POST", path_of("jobs", job_id, verb))))

    def _job(self, answer: Any) -> Job:
        job = Job.model_validate(answer)
        job._jobs = self  # noqa: SLF001 - its own
        return job
