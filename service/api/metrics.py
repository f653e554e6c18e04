"""What Prometheus scrapes."""

import logging
import shutil
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

import redis
from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from service.api.context import Context, Wired
from service.api.problems import documented
from service.errors import ServiceError
from service.observing import exposition
from service.observing.exposition import Sight
from service.running import queue
from service.store import overview

router = APIRouter(tags=["health"])

T = TypeVar("T")

log = logging.getLogger(__name__)

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Every metric of docs/operations.md, in Prometheus's text format, or OpenMetrics where that "
        "is asked for.",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "# HELP numeral_queue_depth Queued in the database.\n# TYPE numeral_queue_depth gauge\n"
                'numeral_queue_depth{queue="cpu"} 3.0\n',
            }
        },
    }
}


@router.get(
    "/metrics",
    response_class=Response,
    summary="Metrics for Prometheus",
    responses=documented() | _TEXT,
)
def scraped(context: Wired, request: Request) -> Response:
    """Counts of all processes of this server, and what the database says of jobs and workers. Answers also while
    database or broker are away: `numeral_database_up` and `numeral_broker_up` say so, and what they would tell is
    missing."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(exposition.registry(_sight(context))), headers={"Content-Type": media_type})


def _sight(context: Context) -> Sight:
    home = context.settings.home
    # with a PostgreSQL nothing may have been kept there yet
    disk = shutil.disk_usage(next(folder for folder in (home, *home.parents) if folder.exists()))
    return Sight(
        reading=context.meter.read(),
        overview=_found(lambda: overview.taken(context.db)),
        messages=_found(lambda: queue.depths(context.settings)),
        database_bytes=_found(context.db.size),
        disk_free=disk.free,
        disk_total=disk.total,
        version=version("numeral"),
    )


def _found(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except (ServiceError, redis.RedisError, OSError) as error:
        log.warning("a metric is missing: %s", error)
        return None
