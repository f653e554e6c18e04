"""What there is and what is going on, for who looks after the service."""

import shutil
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.context import Wired
from service.api.problems import documented
from service.store import jobs, workers
from service.store.jobs import State

router = APIRouter(prefix="/v1/status", tags=["health"])


class DatabaseStatus(BaseModel):
    """Where everything is kept."""

    description: Annotated[str, Field(examples=["SQLite 3.53.4 (pysqlite3.dbapi2)"])]
    size_bytes: int


class DiskStatus(BaseModel):
    """Of the file system that NUMERAL_HOME is on."""

    total_bytes: int
    free_bytes: int


class Status(BaseModel):
    """The service at a glance. Whether it can serve is `/readyz`; the workers are listed at `/v1/workers`."""

    version: str
    jobs: Annotated[dict[State, int], Field(description="How many are in each state; 0 is left out.")]
    queues: Annotated[dict[str, int], Field(description="How many wait in each queue; 0 is left out.")]
    workers: Annotated[int, Field(description="Training processes that are alive.")]
    database: DatabaseStatus
    disk: DiskStatus


@router.get("", summary="What is going on", responses=documented())
def shown(context: Wired) -> Status:
    """Jobs by state, the depth of the queues, and how much room there is."""
    db = context.db
    disk = shutil.disk_usage(context.settings.home)
    return Status(
        version=version("numeral"),
        jobs=jobs.count_by_state(db),
        queues=jobs.count_by_queue(db),
        workers=len(workers.alive(db)),
        database=DatabaseStatus(description=db.describe(), size_bytes=db.size()),
        disk=DiskStatus(total_bytes=disk.total, free_bytes=disk.free),
    )
