"""Which scope of an API key each route asks for: the one place where that is told. The application does not start
with a route that is not here."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastapi import APIRouter
from fastapi.routing import APIRoute

from service.api import problems
from service.keys import Scope

SCHEME = "key"  # of OpenAPI's security
REFUSALS = (401, 403, 421, 429)  # before a route is reached

Needed = tuple[Scope, ...]  # any of these is enough

OPEN: Final[Needed] = ()  # asked without a key: what watches over the service has none
READ: Final[Needed] = ("read",)
PREDICT: Final[Needed] = ("predict",)
EITHER: Final[Needed] = ("read", "predict")  # what a client looks at before it predicts
TRAIN: Final[Needed] = ("train",)
KEPT: Final[Needed] = ("predict", "train")  # whoever had an image kept has its id, which nobody guesses
ADMIN: Final[Needed] = ("admin",)

_ROUTES: Final[Mapping[Needed, str]] = {  # by module and function
    OPEN: "health.livez health.readyz inference_protocol.live inference_protocol.ready",
    READ: """
        catalog.listed catalog.shown catalog.datasets catalog.dataset catalog.alive
        checkpoints.of_job checkpoints.shown checkpoints.download
        compare.compared
        events.events_of events.metrics_of
        jobs.listed jobs.shown
        metrics.scraped
        models.listed models.shown models.download models.aliases models.alias
        plots.of_job plots.of_dataset
        previews.preview
        reports.shown reports.misclassified reports.curves_of
        status.shown
        sweep_pictures.of_sweep
        sweeps.listed sweeps.shown
        tensorboard.event_file
    """,
    EITHER: """
        health.front
        session.begun session.ended
        inference_protocol.server inference_protocol.index
        inference_protocol.all_statistics inference_protocol.statistics inference_protocol.version_statistics
        inference_protocol.metadata inference_protocol.version_metadata
        inference_protocol.model_ready inference_protocol.version_ready
    """,
    PREDICT: """
        predictions.predict predictions.predict_with
        explanations.explain
        bulk.create bulk.listed bulk.shown bulk.results bulk.cancelled bulk.deleted
        readings.read readings.read_with
        streams.predict streams.predict_with
        inference_protocol.infer inference_protocol.version_infer
    """,
    TRAIN: """
        jobs.create jobs.changed jobs.deleted jobs.cancelled jobs.paused jobs.resumed
        models.pointed models.rolled_back
        sweeps.create sweeps.cancelled
        datasets.create datasets.deleted
        feedback.listed feedback.shown feedback.collected
        promotions.promoted
        inference_protocol.load inference_protocol.unload
    """,
    KEPT: "feedback.labelled feedback.deleted",
    ADMIN: "keys.create keys.listed keys.shown keys.revoked",
}
_NEEDED: Final[Mapping[str, Needed]] = {
    name: needed for needed, names in _ROUTES.items() for name in names.split()
}


def needed(endpoint: Callable[..., Any]) -> Needed:
    """The scopes of which an endpoint asks for one."""
    return _NEEDED[_name(endpoint)]


def check(routers: Iterable[APIRouter]) -> list[APIRoute]:
    """The routes that are open. Fails for a route whose scope is not told above, and for a line of a route that is
    gone."""
    routes = _routes(routers)
    found = {_name(route.endpoint) for route in routes}
    assert found == _NEEDED.keys(), (
        f"not as service/api/guards/scopes.py has them: {sorted(found ^ _NEEDED.keys())}"
    )
    return [route for route in routes if needed(route.endpoint) == OPEN]


def describe(description: dict[str, Any], routers: Iterable[APIRouter], *, requires_key: bool) -> None:
    """Tell in an OpenAPI description how a key is sent, which scope each operation asks for, and how it refuses."""
    note = "" if requires_key else " This server asks for none."
    description["components"]["securitySchemes"] = {
        SCHEME: {"type": "http", "scheme": "bearer", "description": f"An API key, `num_...`.{note}"}
    }
    for route in _routes(routers):
        asked = needed(route.endpoint)
        for method in sorted(route.methods or ()) if route.include_in_schema and asked else ():
            operation = description["paths"][route.path_format][method.lower()]
            # any of them is enough; an empty one says that a key may be left out
            operation["security"] = [{SCHEME: [scope]} for scope in asked] + ([] if requires_key else [{}])
            responses = operation["responses"]
            for status in REFUSALS:
                told = {"description": problems.TITLES[status], "content": responses["503"]["content"]}
                responses.setdefault(str(status), told)


def _routes(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def _name(endpoint: Callable[..., Any]) -> str:
    return f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}"
