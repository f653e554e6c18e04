"""What there is to choose from: presets and datasets; and the workers that are alive."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from service import presets
from service.api.context import Wired
from service.api.problems import documented
from service.api.schemas import Limit, Page, Time, rfc3339
from service.catalog import CATALOG, UPLOADED, DatasetCard, Task
from service.presets import PRESETS, Preset
from service.spec import TrainingSpec
from service.store import datasets as uploads
from service.store import workers
from service.store.datasets import Dataset, Source

router = APIRouter(prefix="/v1", tags=["catalog"])


class PresetView(BaseModel):
    """An experiment as a spec."""

    name: str
    title: str
    section: Annotated[str, Field(description="Of the lecture notes, or `Beyond the lecture`.")]
    published: Annotated[dict[str, float], Field(description="Figures that the lecture publishes.")]
    parameter_count: int
    steps: Annotated[int | None, Field(description="null: the worker fixes them, to meet `budget_seconds`.")]
    spec: TrainingSpec

    @classmethod
    def of(cls, preset: Preset) -> "PresetView":
        return cls(
            name=preset.name,
            title=preset.title,
            section=preset.section,
            published=dict(preset.published),
            parameter_count=preset.spec.parameter_count,
            steps=None if preset.spec.planned is None else preset.spec.planned.steps,
            spec=preset.spec,
        )


class DatasetView(BaseModel):
    """A dataset that a spec may name: `dataset.name` of one that comes with the service, `dataset.uploads` by id of
    one that was uploaded."""

    id: Annotated[str | None, Field(description="Of an uploaded one.")] = None
    name: str
    version: Annotated[int | None, Field(description="Of an uploaded one; later ones are greater.")] = None
    title: str
    task: Task
    inputs: Annotated[int, Field(description="Numbers an example.")]
    outputs: Annotated[int, Field(description="Classes, or targets of a regression.")]
    train_examples: Annotated[int | None, Field(description="null: as many as the spec says.")]
    test_examples: int
    licence: Annotated[str | None, Field(description="null: whoever uploaded it knows.")]
    source: Annotated[
        Source | None, Field(description="What an uploaded one was made of; `feedback`: kept images.")
    ] = None
    preprocessing: Annotated[
        str | None, Field(description="Version of what made pixels of an uploaded one's pictures.")
    ] = None
    sha256: Annotated[str | None, Field(description="Of an uploaded one's content.")] = None
    classes: Annotated[
        dict[str, list[int]] | None,
        Field(description="Examples of each label, to train on and to test with."),
    ] = None
    created_at: Time | None = None

    @classmethod
    def of(cls, card: DatasetCard) -> "DatasetView":
        return cls(**{name: getattr(card, name) for name in DatasetCard.__dataclass_fields__})

    @classmethod
    def uploaded(cls, found: Dataset) -> "DatasetView":
        shown = {
            name: getattr(found, name) for name in Dataset.__dataclass_fields__ if name in cls.model_fields
        }
        card = CATALOG[UPLOADED]
        title = f"{found.name}, version {found.version}"
        return cls(
            **shown | {"created_at": rfc3339(found.created_at)},
            title=title,
            task=card.task,
            inputs=card.inputs,
            outputs=card.outputs,
            licence=None,
        )


class GpuView(BaseModel):
    """A GPU as a whole at a worker's last heartbeat, whoever uses it. What it does not tell is null."""

    memory_used_bytes: Annotated[int | None, Field(examples=[5_905_580_032])]
    memory_total_bytes: Annotated[int | None, Field(examples=[150_754_820_096])]
    utilization: Annotated[
        float | None, Field(description="Share of the last moments in which it was at work.", examples=[0.87])
    ]

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> "GpuView | None":
        """None where nothing is told of one."""
        told = {name: figures.get(f"gpu_{name}") for name in cls.model_fields}
        return cls(**told) if any(value is not None for value in told.values()) else None


class WorkerView(BaseModel):
    """A process that trains, or reads batches, seen of late."""

    name: str
    queues: list[str]
    device: str
    job_id: Annotated[str | None, Field(description="What it works on: a job, or a batch.")]
    started_at: Time
    seen_at: Time
    gpu: Annotated[GpuView | None, Field(description="null where it has none, or none that tells of itself.")]


@router.get("/presets", summary="List presets", responses=documented())
def listed() -> Page[PresetView]:
    """Every preset, in the lecture's order, and those beyond it."""
    return Page(data=[PresetView.of(preset) for preset in PRESETS.values()], has_more=False, next=None)


@router.get("/presets/{name}", summary="Look at a preset", responses=documented(404))
def shown(name: Annotated[str, Path(description="Name of a preset.", examples=["slp-200"])]) -> PresetView:
    """The preset with its spec spelt out."""
    return PresetView.of(presets.find(name))


@router.get("/datasets", summary="List datasets", responses=documented())
def datasets(
    context: Wired,
    limit: Limit = 20,
    after: Annotated[
        str | None, Query(pattern="^ds_[0-9a-f]{32}$", description="`next` of the page before.")
    ] = None,
) -> Page[DatasetView]:
    """Every dataset that a spec may name: first those that come with the service, on the first page beside `limit`
    others; then those that were uploaded, newest first."""
    found, has_more = uploads.page(context.db, limit=limit, after=after)
    built_in = [card for card in CATALOG.values() if card.name != UPLOADED and after is None]
    return Page(
        data=[*map(DatasetView.of, built_in), *map(DatasetView.uploaded, found)],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/datasets/{name}", summary="Look at a dataset", responses=documented(404))
def dataset(
    context: Wired,
    name: Annotated[
        str, Path(description="Name of a dataset, or id of an uploaded one.", examples=["mnist"])
    ],
) -> DatasetView:
    """What it is; the examples themselves are in `samples`."""
    if name in CATALOG and name != UPLOADED:
        return DatasetView.of(CATALOG[name])
    return DatasetView.uploaded(uploads.get(context.db, name))


@router.get("/workers", summary="List living workers", responses=documented())
def alive(context: Wired) -> Page[WorkerView]:
    """The processes that train, or read batches, and were seen within the last minute."""
    found = [
        WorkerView(
            name=worker.name,
            queues=worker.queues.split(","),
            device=worker.device,
            job_id=worker.job_id,
            started_at=rfc3339(worker.started_at),
            seen_at=rfc3339(worker.seen_at),
            gpu=GpuView.of(worker.figures or {}),
        )
        for worker in workers.alive(context.db)
    ]
    return Page(data=found, has_more=False, next=None)
