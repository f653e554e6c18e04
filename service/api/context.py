"""What a request may use: built once when the server starts, closed when it stops."""

from dataclasses import dataclass
from threading import Lock
from typing import Annotated

from fastapi import Depends, Request

from service.api.examples import Shelf
from service.api.feed import EventFeed
from service.api.guards.access import Access
from service.api.pictures import Studio
from service.api.statistics import Statistics
from service.observing.meter import Meter
from service.running.queue import Doorbell
from service.serving.batcher import Batcher
from service.serving.classifier import Classifier
from service.settings import Settings
from service.store.database import Database


@dataclass(frozen=True)
class Context:
    """The parts that endpoints are wired to."""

    settings: Settings
    db: Database
    doorbell: Doorbell
    classifier: Classifier
    batcher: Batcher
    feed: EventFeed
    studio: Studio
    shelf: Shelf
    statistics: Statistics
    access: Access
    meter: Meter
    decoding: Lock  # one at a time: a network's weights, an archive's directory may be hundreds of megabytes


async def _of_request(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Wired = Annotated[Context, Depends(_of_request)]
