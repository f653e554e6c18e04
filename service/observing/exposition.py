"""What Prometheus reads: names and labels for what was counted and what the database says.

Counts of one API server (its processes together) and facts of the service as a whole stand side by side: the latter are
the same whichever server is asked, so that they are to be taken by `max`, and counts by `sum`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from service.observing.meter import Distribution, Reading
from service.store.overview import Overview, Waiting
from service.store.setbacks import LEFT, LOST, Setback

JOB_STATES = ("queued", "running", "cancelling", "pausing", "paused", "succeeded", "failed", "cancelled")
BATCH_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
QUEUES = ("cpu", "gpu", "batch")
KINDS = ("job", "batch")
# What counts mistakes is there at 0 before the first: `rate` and `increase` see nothing of a series' first value, and a
# burst of errors between two scrapes would be none.
ERRORS = (500, 503, 507)  # of every route that was ever asked
FAULTS = (  # codes of failures
    *("internal_error", "out_of_memory", "worker_lost", "disk_full"),
    *("dataset_unavailable", "dataset_damaged", "body_damaged"),
)
MISTAKES = ("diverged", "spec_not_accepted", "device_unavailable")  # of a spec: nobody is called for these

Labelled = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True)
class Sight:
    """What was found when somebody asked. None where it could not be found out."""

    reading: Reading
    overview: Overview | None
    messages: Mapping[str, int] | None
    """that wait at the broker, by queue"""
    database_bytes: int | None
    disk_free: int
    disk_total: int
    version: str


def registry(sight: Sight) -> CollectorRegistry:
    """For prometheus_client to write out."""
    made = CollectorRegistry()
    made.register(_Fixed(list(families(sight))))
    return made


class _Fixed(Collector):
    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def families(sight: Sight) -> Iterator[Metric]:
    """All of them, in the order of the table in docs/operations.md; those without a value are there without one."""
    yield _gauge("numeral_build_info", "1, by the version that runs.", ["version"], [((sight.version,), 1)])
    yield from _http(sight.reading)
    yield from _predictions(sight)
    yield from _reconciler(sight.reading)
    yield from _parts(sight)
    yield from _work(sight.overview)
    yield from _setbacks(sight.overview)
    yield from _workers(sight.overview)


def _http(reading: Reading) -> Iterator[Metric]:
    none_yet = {(route, status): 0.0 for route, _ in reading.requests for status in ERRORS}
    requests = {**none_yet, **reading.requests}
    yield _counter(
        "numeral_http_requests",
        "Requests, by template of the route that answered; unmatched: refused before, or none is there.",
        ["method", "route", "status"],
        (((*route, str(status or "other")), count) for (route, status), count in requests.items()),
    )
    durations = HistogramMetricFamily(
        "numeral_http_request_duration_seconds",
        "From the head of a request to the beginning of its answer.",
        labels=["method", "route"],
    )
    for route, found in reading.latencies.items():
        if any(found.counts):
            durations.add_metric(route, _buckets(found), found.sum)
    yield durations


def _predictions(sight: Sight) -> Iterator[Metric]:
    reading = sight.reading
    labels = (((str(label),), count) for label, count in enumerate(reading.labels))
    yield _counter("numeral_predictions", "Images that were read, by the likeliest class.", ["label"], labels)
    yield _histogram(
        "numeral_prediction_confidence",
        "Probability of the likeliest class, as the model says it (a share from 0 to 1).",
        reading.confidences,
    )
    yield _histogram(
        "numeral_classifier_batch_images", "Images that a network ran on at once.", reading.batches
    )
    waiting = reading.waiting_images
    yield _gauge("numeral_classifier_waiting_images", "Images that wait for a network.", [], [((), waiting)])
    versions = [] if sight.overview is None else sight.overview.versions.items()
    yield _gauge(
        "numeral_model_version",
        "Model version that a name (`latest`, an alias) stands for.",
        ["name"],
        (((name,), version) for name, version in versions),
    )


def _reconciler(reading: Reading) -> Iterator[Metric]:
    rounds = [(("ok",), reading.rounds), (("failed",), reading.failed_rounds)]
    yield _counter("numeral_reconciler_rounds", "Rounds of the reconciler.", ["outcome"], rounds)
    yield _counter(
        "numeral_reconciler_actions",
        "What the reconciler did: taken_back, rows from silent workers; rung_again, messages sent again; collected, "
        "looks for garbage.",
        ["action"],
        (((action,), count) for action, count in reading.actions.items()),
    )
    yield _gauge(
        "numeral_reconciler_last_round_timestamp_seconds",
        "When a round went well last; 0 before the first.",
        [],
        [((), reading.last_round)],
    )


def _parts(sight: Sight) -> Iterator[Metric]:
    database_up = float(sight.overview is not None)
    yield _gauge("numeral_database_up", "Whether the database answers.", [], [((), database_up)])
    yield _gauge(
        "numeral_broker_up", "Whether the broker answers.", [], [((), float(sight.messages is not None))]
    )
    size = sight.database_bytes
    yield _gauge(
        "numeral_database_size_bytes", "What the database takes.", [], [] if size is None else [((), size)]
    )
    yield _gauge("numeral_disk_free_bytes", "Left where NUMERAL_HOME lies.", [], [((), sight.disk_free)])
    yield _gauge(
        "numeral_disk_size_bytes", "Of the file system of NUMERAL_HOME.", [], [((), sight.disk_total)]
    )
    messages = (((queue,), count) for queue, count in (sight.messages or {}).items())
    yield _gauge("numeral_broker_messages", "Messages that wait at the broker.", ["queue"], messages)


def _work(overview: Overview | None) -> Iterator[Metric]:
    def each(counts: Mapping[str, int] | None, names: Sequence[str]) -> Labelled:
        return [] if counts is None else [((name,), counts.get(name, 0)) for name in names]

    jobs, batches = (None, None) if overview is None else (overview.jobs, overview.batches)
    yield _gauge("numeral_jobs", "Training jobs, by state.", ["state"], each(jobs, JOB_STATES))
    yield _gauge("numeral_batches", "Batches, by state.", ["state"], each(batches, BATCH_STATES))
    none = Waiting(0, 0.0)
    waiting = [] if overview is None else [(queue, overview.waiting.get(queue, none)) for queue in QUEUES]
    yield _gauge(
        "numeral_queue_depth", "Queued in the database.", ["queue"], [((q,), one.count) for q, one in waiting]
    )
    yield _gauge(
        "numeral_queue_oldest_seconds",
        "How long the oldest of a queue has waited; 0 if it is empty.",
        ["queue"],
        [((queue,), one.seconds) for queue, one in waiting],
    )
    silence = [] if overview is None else [((), overview.silence)]
    yield _gauge(
        "numeral_job_silence_seconds",
        "Since the running job that has been silent longest told of its progress.",
        [],
        silence,
    )


def _setbacks(overview: Overview | None) -> Iterator[Metric]:
    found = [] if overview is None else overview.setbacks

    def summed(chosen: Iterable[tuple[Setback, str]], causes: Sequence[str]) -> Labelled:
        totals = {(kind, cause): 0 for kind in KINDS for cause in causes}
        for one, cause in chosen:
            totals[one.kind, cause] = totals.get((one.kind, cause), 0) + one.count
        return [] if overview is None else list(totals.items())

    yield _counter(
        "numeral_leases_lost",
        "Workers that a job or a batch lost: lease_expired, it fell silent; worker_died, its parent saw it die.",
        ["kind", "cause"],
        summed(((one, one.cause) for one in found if one.cause in LOST), LOST),
    )
    yield _counter(
        "numeral_requeues",
        "Jobs and batches that went back to their queue.",
        ["kind", "cause"],
        summed(((one, one.cause) for one in found if one.becomes == "queued"), (*LOST, LEFT)),
    )
    failed = (one for one in found if one.becomes == "failed")
    yield _counter(
        "numeral_failures",
        "Jobs and batches that failed, by the code of their error.",
        ["kind", "code"],
        summed(
            ((one, "worker_lost" if one.cause in LOST else one.cause) for one in failed), (*FAULTS, *MISTAKES)
        ),
    )


def _workers(overview: Overview | None) -> Iterator[Metric]:
    alive = [] if overview is None else overview.workers
    serving = [((queue,), sum(queue in one.queues.split(",") for one in alive)) for queue in QUEUES]
    yield _gauge(
        "numeral_workers",
        "Living processes that serve a queue; one may serve two.",
        ["queue"],
        [] if overview is None else serving,
    )
    busy = [((one.name, one.device), float(one.job_id is not None)) for one in alive]
    yield _gauge("numeral_worker_busy", "Whether it has something in hand.", ["worker", "device"], busy)

    def figure(name: str) -> Labelled:
        told = [(one, (one.figures or {}).get(name)) for one in alive]
        return [((one.name, one.device), value) for one, value in told if value is not None]

    of_each = ["worker", "device"]
    yield _counter("numeral_worker_steps", "Steps that it has trained.", of_each, figure("steps"))
    yield _counter(
        "numeral_worker_images",
        "Images that it has trained on, or read of batches.",
        of_each,
        figure("images"),
    )
    yield _gauge(
        "numeral_gpu_memory_used_bytes", "Of its GPU, by whoever.", of_each, figure("gpu_memory_used_bytes")
    )
    yield _gauge("numeral_gpu_memory_size_bytes", "Of its GPU.", of_each, figure("gpu_memory_total_bytes"))
    yield _gauge(
        "numeral_gpu_utilization_ratio",
        "Share of the last moments in which its GPU was at work.",
        of_each,
        figure("gpu_utilization"),
    )


def _gauge(name: str, text: str, labels: Sequence[str], values: Labelled) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: Labelled) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


def _histogram(name: str, text: str, found: Distribution) -> Metric:
    return HistogramMetricFamily(name, text, buckets=_buckets(found), sum_value=found.sum)


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    """Added up, as Prometheus has them."""
    bounds = [*(f"{bound:g}" for bound in found.bounds), "+Inf"]
    return list(zip(bounds, accumulate(found.counts), strict=True))
