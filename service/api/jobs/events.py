"""What happened to a job, and its series: as pages, and live as Server-Sent Events."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from service.api.context import Wired
from service.api.jobs.jobs import JobId
from service.api.problems import bad_parameters, documented
from service.api.schemas import Page, Time, rfc3339
from service.errors import FieldError
from service.store import events, jobs, metrics
from service.store.events import EventType

EVENT_STREAM = "text/event-stream"
MAX_NUMBER = 2**31 - 1
MAX_STEP = 2**53 - 1

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


class EventView(BaseModel):
    """One event; `seq` counts from 1 within the job, without gaps."""

    seq: int
    type: EventType
    data: dict[str, Any]
    time: Time


class EventPage(BaseModel):
    """A page of events; `next` goes into `after` to get the following one."""

    data: list[EventView]
    has_more: bool
    next: int | None


class MetricView(BaseModel):
    """One value of one series."""

    name: str
    step: int
    epoch: float
    value: float
    time: Time


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events, or with `Accept: text/event-stream` all of them as they happen",
        "content": {
            EVENT_STREAM: {
                "schema": {"type": "string"},
                "example": 'id: 1\nevent: status\ndata: {"state":"queued"}\n\n',
            }
        },
    }
}


@router.get(
    "/events",
    response_model=EventPage,
    summary="A job's events, once or as they happen",
    responses={**_STREAM, **documented(404)},
)
def events_of(
    context: Wired,
    request: Request,
    job_id: JobId,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events a page.")] = 100,
    after: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Only events with a number over it.")] = 0,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="As `after`, of a stream that goes on where it was cut."),
    ] = None,
) -> Any:
    """`status`, `progress`, `metric`, `checkpoint`, `log`, `warning` and `end`, each stored once. The
    stream ends after the `end` of the job; `Last-Event-ID` resumes it without a gap or a repeat."""
    jobs.get(context.db, job_id)
    if EVENT_STREAM in request.headers.get("accept", "").lower():
        start = after if last_event_id is None else _number(last_event_id)
        return _streamed(context, job_id, start)
    found = events.page(context.db, job_id, after=after, limit=limit + 1)
    has_more = len(found) > limit
    views = [
        EventView(seq=event.seq, type=event.type, data=event.data, time=rfc3339(event.time))
        for event in found[:limit]
    ]
    return EventPage(data=views, has_more=has_more, next=views[-1].seq if has_more else None)


def _number(last_event_id: str) -> int:
    text = last_event_id.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_NUMBER):
        raise bad_parameters([FieldError("header/Last-Event-ID", "must be the number of an event")])
    return int(text)


def _streamed(context: Wired, job_id: str, after: int) -> Response:
    return StreamingResponse(
        context.feed.stream(job_id, after),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},  # no proxy may hold events back
    )


@router.get("/metrics", summary="A job's series", responses=documented(404))
def metrics_of(
    context: Wired,
    job_id: JobId,
    name: Annotated[
        list[str] | None, Query(description="Only this series; may be repeated.", examples=["test_accuracy"])
    ] = None,
    after_step: Annotated[int | None, Query(ge=-1, le=MAX_STEP, description="Only later steps.")] = None,
    max_points: Annotated[
        int | None, Query(ge=2, le=10_000, description="Thin each series evenly to at most so many.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Values a page.")] = 1000,
    after: Annotated[
        str | None, Query(pattern=r"^.{1,64}:\d{1,15}$", description="`next` of the page before.")
    ] = None,
) -> Page[MetricView]:
    """Values ordered by name and step."""
    jobs.get(context.db, job_id)
    found, has_more = metrics.page(
        context.db,
        job_id,
        names=name or (),
        after_step=after_step,
        after=None if after is None else _name_and_step(after),
        max_points=max_points,
        limit=limit,
    )
    views = [
        MetricView(
            name=found.name, step=found.step, epoch=found.epoch, value=found.value, time=rfc3339(found.time)
        )
        for found in found
    ]
    return Page(
        data=views, has_more=has_more, next=f"{views[-1].name}:{views[-1].step}" if has_more else None
    )


def _name_and_step(cursor: str) -> tuple[str, int]:
    name, _, step = cursor.rpartition(":")
    return name, int(step)
