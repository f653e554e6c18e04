"""What a request may use: built once when the server starts, closed when it stops."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.api.feed import EventFeed
from service.classifier import Classifier
from service.queue import Doorbell
from service.settings import Settings
from service.store.database import Database


@dataclass(frozen=True)
class Context:
    """The parts that endpoints are wired to."""

    settings: Settings
    db: Database
    doorbell: Doorbell
    classifier: Classifier
    feed: EventFeed


async def _of_request(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Wired = Annotated[Context, Depends(_of_request)]
