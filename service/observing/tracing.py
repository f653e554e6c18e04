"""Spans for an OpenTelemetry collector, if NUMERAL_OTLP_ENDPOINT names one; else nothing of OpenTelemetry is imported here.

Where work stands in its trace is a `traceparent` in the trail, in rows too, rather than OpenTelemetry's own context: so
a span's parent is found the same way within a process and between them, and a trace has an id in the logs also where
nobody records it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from service import trail
from service.settings import Settings, SettingsError
from service.trail import Following

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Kind = Literal["internal", "server"]
Value = str | int | float | bool

_provider: "TracerProvider | None" = None  # of this process, between `begin` and `end`


def begin(settings: Settings, process: str) -> None:
    """Record from now on, where that is set. After the fork: what sends is a thread. Raises SettingsError without the
    extra `otel`. What else there is to set are OpenTelemetry's own variables, such as OTEL_TRACES_SAMPLER."""
    global _provider
    if settings.otlp_endpoint is None or _provider is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError("NUMERAL_OTLP_ENDPOINT is set: install numeral[otel], or unset it") from None
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    _provider = TracerProvider(
        resource=Resource.create({"service.name": f"numeral-{process}"}), shutdown_on_exit=False
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))


def end() -> None:
    """Send what is recorded, and record no more."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def is_on() -> bool:
    return _provider is not None


class Span:
    """One piece of a trace, or nothing where none is recorded."""

    def __init__(
        self, name: str, parent: str | None, *, kind: Kind = "internal", since: float | None = None
    ) -> None:
        """It begins now, or at `since` (seconds since 1970). `parent` is a `traceparent`."""
        self.traceparent = parent
        self._span: Any = None
        if _provider is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator, carrier = TraceContextTextMapPropagator(), dict[str, str]()
        self._span = _provider.get_tracer("numeral").start_span(
            name,
            context=propagator.extract({} if parent is None else {"traceparent": parent}),
            kind=SpanKind[kind.upper()],
            start_time=None if since is None else int(since * 1e9),
        )
        propagator.inject(carrier, set_span_in_context(self._span))
        self.traceparent = carrier["traceparent"]

    def tell(self, attributes: Mapping[str, Value | None], *, name: str | None = None) -> None:
        """What is known of it by now."""
        if self._span is not None:
            self._span.set_attributes({key: value for key, value in attributes.items() if value is not None})
            if name is not None:
                self._span.update_name(name)

    def fail(self, reason: str) -> None:
        """It went wrong."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        """It is over; once."""
        if self._span is not None:
            self._span.end(time.time_ns())
            self._span = None


@contextmanager
def span(name: str, **attributes: Value | None) -> Iterator[Span]:
    """The block as a span of the trace at hand, and the trail of what is in it."""
    position = trail.here().traceparent
    if _provider is None:
        yield Span(name, position)
        return
    one = Span(name, position)
    one.tell(attributes)
    try:
        with Following(one.traceparent):
            yield one
    except BaseException as error:
        one.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        one.end()
