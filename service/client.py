"""A typed client of the HTTP API.

    with Client() as numeral:
        job = numeral.jobs.create(preset="slp-200")
        job = numeral.jobs.wait(job.id)
        print(numeral.predict(["seven.png"]).predictions[0].label)

Answers of 503 and 429 and broken connections are tried again, for as long as `patience` seconds; every create
carries an idempotency key, so that trying again creates nothing twice.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict

DEFAULT_URL = "http://127.0.0.1:8000"
TERMINAL = ("succeeded", "failed", "cancelled")
LATER = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)
RETRY_SECONDS = 0.5
FOLLOW_SECONDS = 1.0
SILENCE_SECONDS = 45.0  # the server says something every 15


class View(BaseModel):
    """What the API answers; fields that a newer server adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Job(View):
    """A training job."""

    id: str
    state: str
    preset: str | None = None
    parameter_count: int
    device: str | None = None
    attempt: int
    progress: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    model_id: str | None = None
    weights_sha256: str | None = None
    dataset_sha256: str | None = None
    sweep_id: str | None = None
    code_version: str | None = None
    error: dict[str, Any] | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


class Member(View):
    """A job of a sweep; `changes` to the sweep's base, by field. `rank` 1 is the best."""

    index: int
    job_id: str
    state: str
    changes: dict[str, Any]
    rank: int | None = None
    metrics: dict[str, float] = {}
    model_id: str | None = None


class Sweep(View):
    """Many jobs that were asked for at once. `members` and what they are ranked by are missing from a list."""

    id: str
    state: str
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

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


class Batch(View):
    """A set of images that is read in the background. `counts` has `total`, `done` and, of those, `errors`."""

    id: str
    state: str
    model_id: str
    counts: dict[str, int]
    error: dict[str, Any] | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


class Event(View):
    """Something that happened to a job. `seq` counts from 1."""

    seq: int
    type: str
    data: dict[str, Any]


class Model(View):
    """A model version."""

    id: str
    version: int
    task: str
    preset: str | None = None
    job_id: str
    parameter_count: int
    metrics: dict[str, float]
    weights_sha256: str
    created_at: str


class Digit(View):
    """What one image was read as; `probabilities` of 0 to 9. `label` is None where it abstains, for `reason`; `set`
    holds the labels that it may be, likeliest first, where a coverage was asked for."""

    label: int | None
    confidence: float
    probabilities: list[float]
    warnings: list[str] = []


class Answer(View):
    """The digits of one request, in the order of its images, and the model that read them."""

    model: str
    predictions: list[Digit]


class Box(View):
    """Where a digit stands, in the picture's own pixels."""

    left: int
    top: int
    width: int
    height: int


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


class ApiError(Exception):
    """The API refused. `code` is stable, `errors` names each field and what is wrong with it."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", "http_error"))
        self.detail = str(problem.get("detail", problem.get("title", "")))
        self.errors: list[dict[str, str]] = list(problem.get("errors") or [])
        fields = (f"{item['pointer']}: {item['detail']}" for item in self.errors)
        lines = [self.detail, *(line for line in fields if line not in self.detail)]
        super().__init__("\n".join(lines))


class Unreachable(Exception):
    """No server answers."""


class Client:
    """One server. `url` defaults to NUMERAL_URL, then to this machine's port 8000; `api_key`, which it never shows, to
    NUMERAL_API_KEY."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        patience: float = 10.0,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("NUMERAL_URL") or DEFAULT_URL).rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers=_credentials(api_key), timeout=timeout, transport=transport
        )
        self._patience = patience
        self.jobs = Jobs(self)
        self.models = Models(self)
        self.sweeps = Sweeps(self)
        self.batches = Batches(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self,
        images: Sequence[bytes | str | Path],
        *,
        model: str = "latest",
        min_confidence: float | None = None,
        coverage: float | None = None,
    ) -> Answer:
        """Read image files (PNG, JPEG, WebP), given as bytes or paths; abstain from those that are less probable than
        `min_confidence` or no digits, and tell the labels that hold the true one in a share `coverage` of all cases.
        Raises ApiError."""
        files = [
            ("files", (f"image-{index}", image if isinstance(image, bytes) else Path(image).read_bytes()))
            for index, image in enumerate(images)
        ]
        asked = _given({"min_confidence": min_confidence, "coverage": coverage})
        path = _path("models", model, "predict")
        return Answer.model_validate(self.call("POST", path, files=files, params=asked))

    def read(self, image: bytes | str | Path, *, model: str = "latest") -> Reading:
        """Read all digits of an image file (PNG, JPEG, WebP), given as bytes or a path. Raises ApiError."""
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return Reading.model_validate(self.call("POST", _path("models", model, "read"), content=data))

    def compare(self, job_ids: Sequence[str]) -> dict[str, Any]:
        """Finished jobs side by side: their series, where their specs differ, and for each two that classify
        McNemar's test. Raises ApiError."""
        return dict(self.call("GET", "/v1/compare", params={"jobs": ",".join(job_ids)}))

    def preview(
        self,
        augmentation: Mapping[str, Any],
        *,
        dataset: str = "mnist",
        seed: int = 0,
        count: int | None = None,
        variants: int | None = None,
        progress: float | None = None,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture (png, svg, csv) of `count` training images above, and `variants` of each, deformed by the
        block of a spec, below; at a share `progress` of the run. Raises ApiError."""
        fields = {
            "augmentation": augmentation,
            "dataset": dataset,
            "seed": seed,
            "count": count,
            "variants": variants,
            "progress": progress,
            "format": format,
        }
        return self.fetch("POST", "/v1/augmentations/preview", json=_given(fields))

    def datasets(self) -> list[dict[str, Any]]:
        """The datasets that a spec may name."""
        return list(self.call("GET", "/v1/datasets")["data"])

    def samples(
        self,
        name: str,
        *,
        seed: int = 0,
        count: int | None = None,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture (png, svg, csv) of some examples of a dataset. Raises ApiError."""
        params = _given({"seed": seed, "count": count})
        return self.fetch("GET", _path("datasets", name, f"samples.{format}"), params=params)

    def presets(self) -> list[dict[str, Any]]:
        """The experiments that the server knows by name."""
        return list(self.call("GET", "/v1/presets")["data"])

    def workers(self) -> list[dict[str, Any]]:
        """The training processes that are alive."""
        return list(self.call("GET", "/v1/workers")["data"])

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; returns the decoded answer. Raises ApiError, or Unreachable when nothing answers
        within `patience` seconds."""
        response = self._answered(method, path, **options)
        return response.json() if response.content else None

    def fetch(self, method: str, path: str, **options: Any) -> bytes:
        """One request whose answer is a file. Raises as `call` does."""
        return self._answered(method, path, **options).content

    def _answered(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if time.monotonic() >= deadline:
                    raise Unreachable(f"no answer from {self.url}: {error}") from error
                time.sleep(RETRY_SECONDS)
                continue
            if response.status_code in LATER:
                wait = float(response.headers.get("Retry-After", RETRY_SECONDS))
                if time.monotonic() + wait < deadline:
                    time.sleep(wait)
                    continue
            return _accepted(response)

    def download(self, path: str) -> Iterator[bytes]:
        """The pieces of an answer of any size as they come. Raises ApiError, and Unreachable when it breaks."""
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    _accepted(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise Unreachable(f"{path} broke off: {error}") from error

    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """The lines of an answer as they come. Raises ApiError, and httpx.TransportError when it breaks."""
        timeout = httpx.Timeout(30.0, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=dict(headers), timeout=timeout) as response:
            if response.is_error:
                response.read()
                _accepted(response)
            yield from response.iter_lines()


class Jobs:
    """`client.jobs`."""

    def __init__(self, client: Client) -> None:
        self._client = client

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
        succeeded with just this spec, data and code is returned instead, if there is one. Raises ApiError."""
        answer = self._client.call(
            "POST",
            "/v1/jobs",
            params={"reuse": True} if reuse else None,
            json=_envelope(spec, preset, metadata, priority),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
        )
        return Job.model_validate(answer)

    def dry_run(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        reuse: bool = False,
    ) -> dict[str, Any]:
        """What a job would come to: parameters, memory, steps, time, place in the queue; with `reuse` also
        which job would be returned instead."""
        params = {"dry_run": True} | ({"reuse": True} if reuse else {})
        body = _envelope(spec, preset, metadata, priority)
        return dict(self._client.call("POST", "/v1/jobs", params=params, json=body))

    def get(self, job_id: str) -> Job:
        return Job.model_validate(self._client.call("GET", _path("jobs", job_id)))

    def list(self, *, limit: int = 20, state: str | None = None, sweep: str | None = None) -> list[Job]:
        """The newest jobs, newest first."""
        params = _given({"limit": limit, "state": state, "sweep": sweep})
        answer = self._client.call("GET", "/v1/jobs", params=params)
        return [Job.model_validate(item) for item in answer["data"]]

    def report(self, job_id: str) -> dict[str, Any]:
        """How good a finished job is."""
        return dict(self._client.call("GET", _path("jobs", job_id, "report")))

    def misclassified(
        self,
        job_id: str,
        *,
        true: int | None = None,
        predicted: int | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> dict[str, Any]:
        """A page of the test images that it reads wrong, by loss, the largest first: `data`, `total`, and
        `next`, which goes into `after`."""
        params = _given({"true": true, "predicted": predicted, "limit": limit, "after": after})
        return dict(self._client.call("GET", _path("jobs", job_id, "misclassified"), params=params))

    def curves(self, job_id: str) -> dict[str, Any]:
        """What a regression predicted over its test grid, each time figures were taken."""
        return dict(self._client.call("GET", _path("jobs", job_id, "curves")))

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
        path = _path("jobs", job_id, "plots", f"{name}.{format}")
        return self._client.fetch("GET", path, params=dict(options or {}))

    def cancel(self, job_id: str) -> Job:
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        return self._act(job_id, "resume")

    def delete(self, job_id: str) -> None:
        self._client.call("DELETE", _path("jobs", job_id))

    def _act(self, job_id: str, verb: str) -> Job:
        return Job.model_validate(self._client.call("POST", _path("jobs", job_id, verb)))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """A job's events, those there are and then live, to its end. A connection that breaks is made
        anew from the last event seen: none is missed, none comes twice."""
        last, deadline = after, time.monotonic() + SILENCE_SECONDS
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
            try:
                for event in _parsed(self._client.stream(_path("jobs", job_id, "events"), headers)):
                    last, deadline = event.seq, time.monotonic() + SILENCE_SECONDS
                    yield event
                    if event.type == "end":
                        return
            except httpx.TransportError as error:
                if time.monotonic() >= deadline:
                    raise Unreachable(f"the events of {job_id} broke off: {error}") from error
            if self.get(job_id).ended and not self._more(job_id, last):
                return
            time.sleep(RETRY_SECONDS)

    def _more(self, job_id: str, last: int) -> bool:
        page = self._client.call("GET", _path("jobs", job_id, "events"), params={"after": last, "limit": 1})
        return bool(page["data"])

    def wait(self, job_id: str) -> Job:
        """Returns the job when it has ended, however it ended."""
        for _ in self.events(job_id):
            pass
        return self.get(job_id)


class Sweeps:
    """`client.sweeps`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        random: Mapping[str, Mapping[str, Any]] | None = None,
        count: int | None = None,
        seed: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Sweep:
        """Submit a job for every combination of a grid, {"optimizer.learning_rate": [0.1, 0.01]}, or `count` jobs
        at random, {"optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}; over a base that is a
        preset, a spec or both. Raises ApiError, and then no job was made."""
        varied = {"grid": grid, "random": random, "count": count, "seed": seed}
        body = _envelope(spec, preset, metadata, priority) | _given(varied)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Sweep.model_validate(self._client.call("POST", "/v1/sweeps", json=body, headers=headers))

    def dry_run(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        random: Mapping[str, Mapping[str, Any]] | None = None,
        count: int | None = None,
        seed: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> dict[str, Any]:
        """What a sweep would come to: its members, their parameters, memory, steps and time."""
        varied = {"grid": grid, "random": random, "count": count, "seed": seed}
        body = _envelope(spec, preset, metadata, priority) | _given(varied)
        return dict(self._client.call("POST", "/v1/sweeps", params={"dry_run": True}, json=body))

    def get(self, sweep_id: str, *, sort: str | None = None) -> Sweep:
        """With its members, the best first by the metric `sort`; or by `index`."""
        return Sweep.model_validate(
            self._client.call("GET", _path("sweeps", sweep_id), params=_given({"sort": sort}))
        )

    def list(self, *, limit: int = 20) -> list[Sweep]:
        """The newest sweeps, newest first, without their members."""
        answer = self._client.call("GET", "/v1/sweeps", params={"limit": limit})
        return [Sweep.model_validate(item) for item in answer["data"]]

    def cancel(self, sweep_id: str) -> Sweep:
        """End every member that has not ended."""
        return Sweep.model_validate(self._client.call("POST", _path("sweeps", sweep_id, "cancel")))

    def plot(
        self,
        sweep_id: str,
        name: str = "metric",
        options: Mapping[str, Any] | None = None,
        *,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture that compares the members, `metric` or `series`, as `png` or `svg`, or its numbers as `csv`."""
        path = _path("sweeps", sweep_id, "plots", f"{name}.{format}")
        return self._client.fetch("GET", path, params=dict(options or {}))

    def follow(self, sweep_id: str, *, sort: str | None = None) -> Iterator[Sweep]:
        """The sweep now, and again each second or two while it goes on; the last one has ended."""
        while True:
            began = time.monotonic()
            found = self.get(sweep_id, sort=sort)
            yield found
            if found.ended:
                return
            took = time.monotonic() - began
            time.sleep(max(FOLLOW_SECONDS, 5 * took))  # a slow server is asked less often

    def wait(self, sweep_id: str, *, sort: str | None = None) -> Sweep:
        """Returns the sweep when all its members have ended, however they ended. A paused one is waited for."""
        *_, last = self.follow(sweep_id, sort=sort)
        return last


class Batches:
    """`client.batches`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self,
        content: bytes | Iterable[bytes],
        *,
        model: str = "latest",
        preprocess: str | None = None,
        scale: str | None = None,
        media_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Submit lines of JSON, pixels (`media_type` application/octet-stream) or a ZIP: bytes, or what gives their
        pieces, anew each time that it is iterated. Raises ApiError."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if media_type is not None:
            headers["Content-Type"] = media_type
        params = _given({"model": model, "preprocess": preprocess, "scale": scale})
        answer = self._client.call("POST", "/v1/batches", params=params, content=content, headers=headers)
        return Batch.model_validate(answer)

    def get(self, batch_id: str) -> Batch:
        return Batch.model_validate(self._client.call("GET", _path("batches", batch_id)))

    def list(self, *, limit: int = 20, state: str | None = None) -> list[Batch]:
        """The newest batches, newest first."""
        answer = self._client.call("GET", "/v1/batches", params=_given({"limit": limit, "state": state}))
        return [Batch.model_validate(item) for item in answer["data"]]

    def cancel(self, batch_id: str) -> Batch:
        return Batch.model_validate(self._client.call("POST", _path("batches", batch_id, "cancel")))

    def delete(self, batch_id: str) -> None:
        self._client.call("DELETE", _path("batches", batch_id))

    def follow(self, batch_id: str) -> Iterator[Batch]:
        """The batch now, and again each second while it goes on; the last one has ended."""
        while not (found := self.get(batch_id)).ended:
            yield found
            time.sleep(FOLLOW_SECONDS)
        yield found

    def wait(self, batch_id: str) -> Batch:
        """Returns the batch when it has ended, however it ended."""
        *_, last = self.follow(batch_id)
        return last

    def results(self, batch_id: str) -> Iterator[bytes]:
        """The answers of a batch that has ended, each a line of JSON without its end. Raises ApiError, and Unreachable
        when they break off."""
        rest = b""
        for piece in self._client.download(_path("batches", batch_id, "results")):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines


class Models:
    """`client.models`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def aliases(self) -> list[dict[str, Any]]:
        return list(self._client.call("GET", "/v1/aliases")["data"])

    def get(self, reference: str) -> Model:
        """By id, alias, or `latest`."""
        return Model.model_validate(self._client.call("GET", _path("models", reference)))

    def list(self, *, limit: int = 20) -> list[Model]:
        """The newest models, newest first."""
        answer = self._client.call("GET", "/v1/models", params={"limit": limit})
        return [Model.model_validate(item) for item in answer["data"]]

    def promote(self, alias: str, reference: str) -> dict[str, Any]:
        """Point an alias at a model."""
        return dict(self._client.call("PUT", _path("aliases", alias), json={"model": reference}))

    def rollback(self, alias: str) -> dict[str, Any]:
        """Point an alias at what it pointed at before."""
        return dict(self._client.call("POST", _path("aliases", alias, "rollback")))


def _credentials(api_key: str | None) -> dict[str, str]:
    given = (api_key or os.environ.get("NUMERAL_API_KEY") or "").strip()
    if not given.isascii() or not given.isprintable():
        raise ValueError("the API key holds characters that no key has")  # the HTTP library would show it
    return {"Authorization": f"Bearer {given}"} if given else {}


def _path(*parts: str) -> str:
    """A path under /v1; what a part holds stays in that part, also a slash or `..`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _envelope(
    spec: Mapping[str, Any] | None,
    preset: str | None,
    metadata: Mapping[str, Any] | None,
    priority: int | None,
) -> dict[str, Any]:
    return _given({"preset": preset, "spec": spec, "metadata": metadata, "priority": priority})


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _accepted(response: httpx.Response) -> httpx.Response:
    """The answer. Raises ApiError if it is a refusal."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:500] or response.reason_phrase}
    raise ApiError(response.status_code, problem if isinstance(problem, dict) else {"detail": str(problem)})


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Server-Sent Events: fields up to an empty line; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            data = json.loads(fields["data"])
            yield Event(seq=int(fields["id"]), type=fields["event"], data=data)
            fields = {}
