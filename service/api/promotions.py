"""Promotion through a gate: an alias moves to a model only if that is not worse than the one it stands for."""

import threading
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.api.bodies import JsonObject
from service.api.context import Context, Wired
from service.api.jobs.submissions import validated
from service.api.models import AliasName, AliasView
from service.api.problems import documented
from service.errors import Conflict, NotFound
from service.figures import comparison
from service.serving.classifier import Loaded
from service.store import models
from service.store.models import Alias

router = APIRouter(prefix="/v1", tags=["models"])

_testing = threading.Lock()  # both networks read a whole test set: one such pair at a time


class WorseThanPresent(Conflict):
    code, title = "worse_than_present", "The model is worse than the one that the alias stands for"


class PromotionRequest(BaseModel):
    """Which model is to take the alias over, and how sure one must be that it is worse to refuse it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=100, description="A model's id, `latest`, or another alias.")]
    level: Annotated[
        float,
        Field(gt=0, lt=1, description="It is refused if the test's p-value is below; larger is stricter."),
    ] = 0.05


class GateView(BaseModel):
    """Both models on the test set of the present one, and whether the candidate is worse."""

    present: Annotated[str, Field(description="Id of the model that the alias stood for.")]
    candidate: str
    dataset: Annotated[str, Field(description="Whose test set was read, by both in float32.")]
    examples: int
    accuracy_present: float
    accuracy_candidate: float
    only_present_right: int
    only_candidate_right: int
    p_value: Annotated[
        float,
        Field(
            description="Chance that of the images which tell them apart so many go to the present one, were both "
            "equally good: McNemar's test, exact, one-sided."
        ),
    ]
    level: float
    passed: bool


class PromotionView(AliasView):
    """The alias as it stands now."""

    gate: Annotated[
        GateView | None, Field(description="null: it stood for no other model, nothing was tested.")
    ]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/PromotionRequest"},
                "example": {"model": "latest", "level": 0.05},
            }
        },
    }
}


@router.post(
    "/aliases/{name}/promote",
    summary="Point an alias at a model that is not worse",
    responses={
        **documented(400, 404, 413, 415, 507),
        409: documented(409)[409]
        | {
            "description": "It is worse (`worse_than_present`; `gate` has the numbers), it reads no digits, or the alias "
            "was moved meanwhile (`alias_moved`)"
        },
    },
    openapi_extra=_BODY,
)
def promoted(context: Wired, name: AliasName, payload: JsonObject) -> PromotionView:
    """Both models read the test set that the present one was tested on. The alias moves unless the candidate is worse
    by a paired test (exact McNemar, one-sided) at the level. `POST /v1/aliases/{name}/rollback` takes it back;
    `PUT /v1/aliases/{name}` moves it without a test."""
    request = validated(PromotionRequest, payload)
    candidate = context.classifier.loaded(context.classifier.resolve(request.model).id)
    present = _present(context, name)
    gate = None
    if present is not None and present.model_id != candidate.model.id:
        gate = _gate(context, context.classifier.loaded(present.model_id), candidate, request.level)
        if not gate.passed:
            raise _refused(name, gate)
    seq = 0 if present is None else present.seq
    moved, _ = models.set_alias(context.db, name, candidate.model.id, at_seq=seq)
    context.classifier.refresh()
    return PromotionView(**AliasView.of(moved).model_dump(), gate=gate)


def _present(context: Context, name: str) -> Alias | None:
    try:
        return models.alias_of(context.db, name)[0]
    except NotFound:
        return None


def _gate(context: Context, present: Loaded, candidate: Loaded, level: float) -> GateView:
    dataset = present.exact.spec.dataset
    images, labels = context.shelf.tested(dataset)
    with _testing:
        old, new = (_right(one, images, labels) for one in (present, candidate))
    only_old, only_new = int((old & ~new).sum()), int((new & ~old).sum())
    p_value = comparison.worse_p_value(only_old, only_new)
    return GateView(
        present=present.model.id,
        candidate=candidate.model.id,
        dataset=dataset.name,
        examples=len(labels),
        accuracy_present=float(old.mean()),
        accuracy_candidate=float(new.mean()),
        only_present_right=only_old,
        only_candidate_right=only_new,
        p_value=p_value,
        level=level,
        passed=p_value >= level,
    )


def _right(loaded: Loaded, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = loaded.exact.logits(images).argmax(axis=1) == labels
    return found


def _refused(name: str, gate: GateView) -> WorseThanPresent:
    error = WorseThanPresent(
        f"{name} stays with {gate.present}: of {gate.examples:,} test images {gate.only_present_right:,} are read right by "
        f"it alone, {gate.only_candidate_right:,} by {gate.candidate} alone; were both equally good, so bad a split would "
        f"come with a chance of {gate.p_value:.2g}, below the level of {gate.level:g}. Train a better one, or move the alias "
        f"without a test by PUT /v1/aliases/{name}"
    )
    error.extensions = {"gate": gate.model_dump(mode="json")}
    return error
