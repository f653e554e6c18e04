"""Logging of the processes: one line an event, to standard error; JSON for programs, and for people at a terminal what
they read more easily. Every line says which request, trace, job and attempt it is about."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog
from structlog.typing import Processor

from service import trail
from service.observing.redaction import redacted
from service.settings import Settings

CHATTY = ("alembic", "celery", "httpx", "httpcore", "kombu", "opentelemetry", "uvicorn")

Told = MutableMapping[str, Any]


class _Redacting(structlog.stdlib.ProcessorFormatter):
    """Lines, and tracebacks, without secrets: libraries write what they are given."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure(settings: Settings, process: str) -> None:
    """Once at the start of a process; libraries speak from warnings up, unless debugging."""
    handler = logging.StreamHandler()
    is_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(formatter(process, is_json=is_json))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    if settings.log_level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def formatter(process: str, *, is_json: bool) -> logging.Formatter:
    """Of the lines of a process of that name."""

    def about(_logger: object, _method: str, told: Told) -> Told:
        return {"process": process, **trail.here().ids, **told}

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        about,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
    ]
    return _Redacting(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([structlog.processors.format_exc_info, _as_json] if is_json else [_console()]),
        ],
    )


def _as_json(_logger: object, _method: str, told: Told) -> str:
    """What is told first stands first. Secrets go before quotes and lines are escaped, and are looked for once more
    in the whole."""
    first = {name: told.pop(name) for name in ("timestamp", "level", "process", "event") if name in told}
    values = {
        key: redacted(value) if isinstance(value, str) else value for key, value in {**first, **told}.items()
    }
    return orjson.dumps(values, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _console() -> Processor:
    is_colourful = sys.stderr.isatty()
    return structlog.dev.ConsoleRenderer(
        colors=is_colourful,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,  # the other shows variables, and their secrets
    )
