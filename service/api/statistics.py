"""How often each model version was asked to infer, and how long that took: Triton's statistics extension
(docs/protocol/extension_statistics.md). Counted since this process started, and by this process."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from pydantic import BaseModel

KEPT = 256  # model versions, those asked last


class Duration(BaseModel):
    """How many times, and how many nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


class InferenceDurations(BaseModel):
    """Of whole requests, and of their parts. What waits for the thread of large networks is counted with
    `compute_infer`, and nothing is cached."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration


class BatchDurations(BaseModel):
    """Of the executions of one batch size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """What was asked of one model version; `last_inference` is in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceDurations
    batch_stats: list[BatchDurations]


@dataclass(frozen=True)
class Spans:
    """Nanoseconds that the parts of one request took: reading its tensors, the network, writing the answer."""

    read: int
    infer: int
    write: int


@dataclass
class _Parts:
    read: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    write: Duration = field(default_factory=Duration)

    def add(self, spans: Spans) -> None:
        self.read.add(spans.read)
        self.infer.add(spans.infer)
        self.write.add(spans.write)


@dataclass
class _Counts:
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    parts: _Parts = field(default_factory=_Parts)
    batches: dict[int, _Parts] = field(default_factory=dict)  # by their size, which is limited
    images: int = 0
    last: int = 0

    def shown(self, name: str, version: int) -> ModelStatistics:
        parts = self.parts
        durations = InferenceDurations(
            success=self.success.model_copy(),
            fail=self.fail.model_copy(),
            queue=Duration(count=self.success.count),
            compute_input=parts.read.model_copy(),
            compute_infer=parts.infer.model_copy(),
            compute_output=parts.write.model_copy(),
            cache_hit=Duration(),
        )
        return ModelStatistics(
            name=name,
            version=str(version),
            last_inference=self.last,
            inference_count=self.images,
            execution_count=self.success.count,
            inference_stats=durations,
            batch_stats=[_batch(size, self.batches[size]) for size in sorted(self.batches)],
        )


def _batch(size: int, parts: _Parts) -> BatchDurations:
    return BatchDurations(
        batch_size=size,
        compute_input=parts.read.model_copy(),
        compute_infer=parts.infer.model_copy(),
        compute_output=parts.write.model_copy(),
    )


class Statistics:
    """The counts of every model version. Any thread may ask."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, _Counts] = OrderedDict()  # by version, asked last at the end
        self._guard = threading.Lock()

    def succeeded(self, version: int, images: int, spans: Spans) -> None:
        with self._guard:
            counts = self._of(version)
            counts.success.add(spans.read + spans.infer + spans.write)
            counts.parts.add(spans)
            counts.batches.setdefault(images, _Parts()).add(spans)
            counts.images += images

    def failed(self, version: int, ns: int) -> None:
        with self._guard:
            self._of(version).fail.add(ns)

    def versions(self) -> list[int]:
        """Versions that were asked since the process started."""
        with self._guard:
            return sorted(self._counts)

    def shown(self, name: str, version: int) -> ModelStatistics:
        """The counts of one version, under a name that it has; zeros if it was not asked yet."""
        with self._guard:
            return self._counts.get(version, _Counts()).shown(name, version)

    def _of(self, version: int) -> _Counts:
        counts = self._counts.setdefault(version, _Counts())
        self._counts.move_to_end(version)
        if len(self._counts) > KEPT:
            self._counts.popitem(last=False)
        counts.last = time.time_ns() // 1_000_000
        return counts
