"""Model versions, and the names that point at them."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse

from service.api.bodies import JsonObject
from service.api.context import Wired
from service.api.jobs.checkpoints import FileFormat
from service.api.jobs.submissions import validated
from service.api.problems import documented
from service.api.schemas import Limit, Page, SpecJson, Time, rfc3339
from service.serving.confidence import TABLES
from service.serving.quantized import Trial
from service.store import models
from service.store.models import Alias, Model

router = APIRouter(prefix="/v1", tags=["models"])

ModelRef = Annotated[
    str,
    Path(
        description="A model's id, `latest` (the newest classifier), or an alias.",
        examples=["latest", "champion", "model_019ab3c4d5e67f80912a3b4c5d6e7f80"],
    ),
]
AliasName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of an alias.", examples=["champion"])
]


class ModelView(BaseModel):
    """A model version: what a finished job registered."""

    id: str
    version: int
    aliases: Annotated[list[str], Field(description="Names that point at it now, `latest` among them.")]
    task: str
    job_id: str
    checkpoint_id: str
    preset: str | None
    spec: SpecJson
    parameter_count: int
    preprocessing: Annotated[str, Field(description="Version of what turns an image into its input.")]
    metrics: dict[str, float]
    calibration: Annotated[
        dict[str, Any] | None,
        Field(description="How the model's logits become probabilities; null: by softmax alone."),
    ]
    quantized: Annotated[
        Trial | None,
        Field(description="How weights of bytes did beside float32 on the test set; null: not tried."),
    ]
    weights_sha256: str
    dataset_sha256: str
    provenance: Annotated[dict[str, Any], Field(description="Device, seed, and versions.")]
    created_at: Time

    @classmethod
    def of(cls, model: Model, pointers: dict[str, str]) -> "ModelView":
        fields = {name: getattr(model, name) for name in Model.__dataclass_fields__}
        names = sorted(name for name, model_id in pointers.items() if model_id == model.id)
        shown: dict[str, Any] = {"aliases": names, "created_at": rfc3339(model.created_at)}
        if model.calibration is not None:
            shown["calibration"] = {
                name: value for name, value in model.calibration.items() if name not in TABLES
            }
        return cls(**fields | shown)


class AliasView(BaseModel):
    """A name and the model that it stands for; `seq` counts its moves."""

    name: str
    model: Annotated[str, Field(description="Id of the model.")]
    seq: int
    updated_at: Time

    @classmethod
    def of(cls, alias: Alias) -> "AliasView":
        return cls(name=alias.name, model=alias.model_id, seq=alias.seq, updated_at=rfc3339(alias.updated_at))


class AliasMove(BaseModel):
    """One move of an alias."""

    seq: int
    model: str
    action: str
    time: Time


class AliasHistory(AliasView):
    """An alias with its moves, newest first."""

    history: list[AliasMove]


class AliasRequest(BaseModel):
    """Where an alias is to point."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=100, description="A model's id, `latest`, or another alias.")]


_ALIAS_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/AliasRequest"},
                "example": {"model": "latest"},
            }
        },
    }
}


@router.get("/models", summary="List models, newest first", responses=documented())
def listed(
    context: Wired,
    limit: Limit = 20,
    after: Annotated[
        str | None, Query(pattern="^model_[0-9a-f]{32}$", description="`next` of the page before.")
    ] = None,
) -> Page[ModelView]:
    """A page of model versions."""
    found, has_more = models.page(context.db, limit=limit, after=after)
    pointers = models.pointers(context.db)
    return Page(
        data=[ModelView.of(model, pointers) for model in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/models/{reference}", summary="Look at a model", responses=documented(404))
def shown(context: Wired, reference: ModelRef) -> ModelView:
    """The model that the reference stands for."""
    model = models.resolve(context.db, reference)
    return ModelView.of(model, models.pointers(context.db))


@router.head(
    "/models/{reference}/download", status_code=307, response_class=RedirectResponse, include_in_schema=False
)
@router.get(
    "/models/{reference}/download",
    status_code=307,
    response_class=RedirectResponse,
    summary="Download a model's weights",
    responses={307: {"description": "To the checkpoint's download"}, **documented(404)},
)
def download(context: Wired, reference: ModelRef, file_format: FileFormat = "safetensors") -> str:
    """Leads to the download of the model's checkpoint."""
    path = f"/v1/checkpoints/{models.resolve(context.db, reference).checkpoint_id}/download"
    return path if file_format == "safetensors" else f"{path}?format={file_format}"


@router.get("/aliases", summary="List aliases", responses=documented())
def aliases(context: Wired) -> Page[AliasView]:
    """Every alias, by name. `latest` is none: it follows the newest classifier by itself."""
    found = models.aliases(context.db)
    return Page(data=[AliasView.of(alias) for alias in found], has_more=False, next=None)


@router.get("/aliases/{name}", summary="Look at an alias", responses=documented(404))
def alias(context: Wired, name: AliasName) -> AliasHistory:
    """The alias with its moves."""
    current, moves = models.alias_of(context.db, name)
    history = [
        AliasMove(seq=move["seq"], model=move["model_id"], action=move["action"], time=rfc3339(move["time"]))
        for move in moves
    ]
    return AliasHistory(**AliasView.of(current).model_dump(), history=history)


@router.put(
    "/aliases/{name}",
    summary="Point an alias at a model",
    responses=documented(400, 404, 413, 415, 507),
    openapi_extra=_ALIAS_BODY,
)
def pointed(context: Wired, name: AliasName, payload: JsonObject) -> AliasView:
    """Make the alias or move it; served at once here, within a second by other processes."""
    request = validated(AliasRequest, payload)
    found, _ = models.set_alias(context.db, name, request.model)
    context.classifier.refresh()
    return AliasView.of(found)


@router.post("/aliases/{name}/rollback", summary="Take an alias back", responses=documented(404, 409, 507))
def rolled_back(context: Wired, name: AliasName) -> AliasView:
    """Point the alias at what it pointed at before its last move; twice goes back twice."""
    found = models.roll_back(context.db, name)
    context.classifier.refresh()
    return AliasView.of(found)
