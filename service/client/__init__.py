"""A typed client of the HTTP API, blocking and awaiting.

    with Client() as numeral:
        job = numeral.jobs.create(preset="slp-200").wait()
        print(numeral.predict("seven.png").label)

    async with AsyncClient() as numeral:
        job = await (await numeral.jobs.create(preset="slp-200")).wait()
        print((await numeral.predict("seven.png")).label)

Answers of 503 and 429 and broken connections are tried again, for as long as `patience` seconds; every create
carries an idempotency key, so that trying again creates nothing twice. It needs httpx and pydantic alone.
"""

from service.client.awaiting.batches import AsyncBatch
from service.client.awaiting.client import AsyncClient
from service.client.awaiting.jobs import AsyncJob
from service.client.awaiting.sweeps import AsyncSweep
from service.client.blocking.batches import Batch
from service.client.blocking.client import Client
from service.client.blocking.jobs import Job
from service.client.blocking.sweeps import Sweep
from service.client.errors import (
    ApiError,
    Conflict,
    FieldError,
    Forbidden,
    Invalid,
    InvalidSpec,
    NotFound,
    NotSupported,
    NumeralError,
    Overloaded,
    StorageFull,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from service.client.views import (
    TERMINAL,
    Alias,
    Answer,
    Checkpoint,
    Dataset,
    Digit,
    Event,
    Explanation,
    Failure,
    Gate,
    Gpu,
    JobPlan,
    Key,
    Member,
    Mistake,
    Model,
    NewKey,
    Point,
    Preset,
    Progress,
    Promotion,
    Reading,
    Sample,
    Status,
    SweepPlan,
    Worker,
)

__all__ = [
    "TERMINAL",
    "Alias",
    "Answer",
    "ApiError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AsyncSweep",
    "Batch",
    "Checkpoint",
    "Client",
    "Conflict",
    "Dataset",
    "Digit",
    "Event",
    "Explanation",
    "Failure",
    "FieldError",
    "Forbidden",
    "Gate",
    "Gpu",
    "Invalid",
    "InvalidSpec",
    "Job",
    "JobPlan",
    "Key",
    "Member",
    "Mistake",
    "Model",
    "NewKey",
    "NotFound",
    "NotSupported",
    "NumeralError",
    "Overloaded",
    "Point",
    "Preset",
    "Progress",
    "Promotion",
    "Reading",
    "Sample",
    "Status",
    "StorageFull",
    "Sweep",
    "SweepPlan",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
    "Unsupported",
    "Worker",
]
