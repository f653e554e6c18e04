"""Logging of the processes: one line an event, to standard error."""

import logging

from service.settings import Settings

CHATTY = ("alembic", "celery", "httpx", "httpcore", "kombu", "uvicorn")


def configure(settings: Settings, process: str) -> None:
    """Once at the start of a process; libraries speak from warnings up, unless debugging."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process}: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    if settings.log_level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
