"""The model that a submitted spec learns from."""

from service.catalog import CATALOG
from service.errors import FieldError, Invalid, NotFound
from service.spec import TrainingSpec
from service.store import models
from service.store.database import Database
from service.store.models import LATEST, Model


def named(db: Database, spec: TrainingSpec, *, where: str) -> TrainingSpec:
    """The spec with its teacher named by id, once and for all: what `latest` and an alias stand for may change.
    Raises Invalid that points at `where` for a model that there is not, or that cannot teach this."""
    if spec.distillation is None:
        return spec
    reference = spec.distillation.teacher
    try:
        model = models.resolve(db, reference)
    except NotFound:
        raise _refused("unknown_teacher", where, _unknown(reference)) from None
    card, own = CATALOG[model.spec["dataset"]["name"]], spec.dataset.card
    if (card.task, card.inputs, card.outputs) != (own.task, own.inputs, own.outputs):
        detail = (
            f"{_called(model, reference)} is a {card.task} of {card.outputs:,} outputs, learnt from {card.name}, and "
            f"cannot teach a {own.task} of {own.outputs:,}: name another model"
        )
        raise _refused("unfit_teacher", where, detail)
    distillation = spec.distillation.model_copy(update={"teacher": model.id})
    return spec.model_copy(update={"distillation": distillation})


def _unknown(reference: str) -> str:
    if reference == LATEST:
        return 'no model is trained yet: train one first, such as {"preset": "committee"}'
    return f"there is no model and no alias {reference!r}: GET /v1/models lists those that can teach"


def _called(model: Model, reference: str) -> str:
    return model.id if model.id == reference else f"{reference} ({model.id})"


def _refused(code: str, where: str, detail: str) -> Invalid:
    return Invalid(detail, code=code, errors=[FieldError(where, detail)])
