"""The composition root: what an API process is made of, and in which order it starts and stops."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
from fastapi import Depends, FastAPI
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from service.api import catalog, health, keys, metrics, models, problems, promotions, session, status
from service.api.bodies import known_parameters
from service.api.context import Context
from service.api.data import datasets, feedback
from service.api.examples import Shelf
from service.api.feed import EventFeed
from service.api.guards import access, origins, scopes
from service.api.guards.access import Access, authorized
from service.api.guards.limits import BodyLimit, RequestIdentity
from service.api.guards.measured import Measured
from service.api.inference import inference_protocol
from service.api.jobs import (
    checkpoints,
    compare,
    events,
    jobs,
    plots,
    previews,
    reports,
    submissions,
    tensorboard,
)
from service.api.pictures import Studio
from service.api.predictions import bulk, explanations, predictions, readings, streams
from service.api.statistics import Statistics
from service.api.sweeps import sweep_pictures, sweeps
from service.observing import tracing
from service.observing.meter import Meter
from service.running import admin_key, queue
from service.running.queue import Doorbell
from service.running.reconciler import Reconciler
from service.serving.batcher import Batcher
from service.serving.classifier import Classifier, Far
from service.settings import Settings, SettingsError
from service.spec import TrainingSpec
from service.store import schema
from service.store.database import Database
from service.ui import pages
from service.versions import code_version

NVIDIA = Path("/dev/nvidiactl")  # is there where a process may use an NVIDIA GPU
COMPONENTS = "#/components/schemas/{model}"

log = logging.getLogger(__name__)


NOUNS = (
    *(
        jobs,
        events,
        tensorboard,
        checkpoints,
        reports,
        compare,
        plots,
        sweeps,
        sweep_pictures,
        previews,
        models,
    ),
    *(promotions, predictions, explanations, readings, streams, bulk, inference_protocol, datasets, feedback),
    *(catalog, status, keys, session, metrics, health),
)


class Api(FastAPI):
    """FastAPI whose description also holds what bodies are read by hand, problems, and what keys are for."""

    requires_key = False

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            described = super().openapi()
            _, extra = models_json_schema(
                [
                    (kind, "validation")
                    for kind in (
                        TrainingSpec,
                        submissions.JobRequest,
                        submissions.JobChange,
                        sweeps.SweepRequest,
                        models.AliasRequest,
                        promotions.PromotionRequest,
                        feedback.LabelRequest,
                        feedback.CollectRequest,
                        keys.KeyRequest,
                        problems.Problem,
                    )
                ],
                ref_template=COMPONENTS,
            )
            described["components"]["schemas"] |= extra["$defs"]
            routers = [noun.router for noun in NOUNS]
            scopes.describe(described, routers, requires_key=self.requires_key)
        return self.openapi_schema or described


def new_meter(processes: int = 1) -> Meter:
    """For the requests of every route, by so many processes."""
    routers = [pages.routes(dict), *(noun.router.routes for noun in NOUNS)]
    found = {
        (method, route.path_format): None
        for routes in routers
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    }
    return Meter(tuple(found), rows=processes)


def create_app(settings: Settings, meter: Meter | None = None) -> FastAPI:
    """The application; nothing is opened before it starts."""
    meter = meter or new_meter()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            contextmanager_in_threadpool(_wired(settings, meter)) as context,
            context.feed.running(),
        ):
            app.state.context = context
            yield

    app = Api(
        title="Numeral",
        summary="Trains multi-layer perceptrons and reads handwritten digits with them.",
        version=version("numeral"),
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
        dependencies=[Depends(authorized), Depends(known_parameters)],
    )
    app.requires_key = settings.requires_key
    problems.install(app)
    app.add_middleware(BodyLimit, settings=settings)
    shown = pages.routes(app.openapi)
    access.install(app, settings, [*scopes.check(noun.router for noun in NOUNS), *shown])
    origins.install(app, settings)
    app.add_middleware(RequestIdentity)
    app.add_middleware(
        Measured, meter=meter, pages=[page for page in shown if isinstance(page, Route)]
    )  # the last added is the outermost
    for noun in NOUNS:
        app.include_router(noun.router)
    app.router.routes[:0] = shown  # first, since `/` is a page to who asks for HTML
    return app


def _operation_id(route: APIRoute) -> str:
    """Such as `jobs_create`: what generated clients call it."""
    return f"{route.endpoint.__module__.rpartition('.')[2]}_{route.name}"


@contextmanager
def _wired(settings: Settings, meter: Meter) -> Iterator[Context]:
    """Open everything, close it in the opposite order."""
    cv2.setNumThreads(1)  # requests are its parallelism; threads within one would wait for each other
    with ExitStack() as closing:
        tracing.begin(settings, "api")
        closing.callback(tracing.end)
        log.info("the engine is %s", code_version())  # told now: its sources may be replaced while it runs
        db = Database(settings.database)
        closing.callback(db.close)
        schema.migrate(db)
        log.info("the database is %s", db.describe())
        admin_key.ready(settings, db)
        app = queue.celery(settings)
        closing.callback(app.close)
        doorbell = Doorbell(app)
        reconciler = Reconciler(settings, db, app, meter)
        classifier = Classifier(db, _far(settings), meter)
        batcher = Batcher(settings.max_waiting_images, meter)
        for part in (meter, doorbell, reconciler, classifier, batcher):
            part.start()
            closing.callback(part.close)
        feed, studio, shelf = EventFeed(db), Studio(), Shelf(settings, db)
        statistics = Statistics()
        yield Context(
            settings,
            db,
            doorbell,
            classifier,
            batcher,
            feed,
            studio,
            shelf,
            statistics,
            Access(settings, db),
            meter,
            decoding=Lock(),
        )


def _far(settings: Settings) -> Far | None:
    """What serves on a GPU, if there is one and it may. Raises SettingsError where it was asked for by name."""
    if settings.api_device == "cpu" or (settings.api_device == "auto" and not NVIDIA.exists()):
        return None
    try:
        from service.serving.accelerated import AcceleratedNetwork, has_gpu
    except ImportError:
        found = False
    else:
        found = has_gpu()
    if found:
        return AcceleratedNetwork
    if settings.api_device == "cuda":
        raise SettingsError(
            "NUMERAL_API_DEVICE is cuda, and here PyTorch finds no GPU: install numeral[train] where there is one, or "
            "set it to auto"
        )
    return None
