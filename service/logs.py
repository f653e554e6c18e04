"""Logging of the processes: one line an event, to standard error."""

import logging

from service.redaction import redacted
from service.settings import Settings

CHATTY = ("alembic", "celery", "httpx", "httpcore", "kombu", "uvicorn")


class _Redacting(logging.Formatter):
    """Lines, and tracebacks, without secrets: libraries write what they are given."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure(settings: Settings, process: str) -> None:
    """Once at the start of a process; libraries speak from warnings up, unless debugging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting(f"%(asctime)s %(levelname)-7s {process}: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    if settings.log_level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
