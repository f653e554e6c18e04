"""What there is to choose from: presets and datasets; and the workers that are alive."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from service import presets
from service.api.context import Wired
from service.api.problems import documented
from service.api.schemas import Page, Time, rfc3339
from service.catalog import CATALOG, DatasetCard, Task
from service.presets import PRESETS, Preset
from service.spec import TrainingSpec
from service.store import workers

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
    """A dataset that a spec may name."""

    name: str
    title: str
    task: Task
    inputs: Annotated[int, Field(description="Numbers an example.")]
    outputs: Annotated[int, Field(description="Classes, or targets of a regression.")]
    train_examples: Annotated[int | None, Field(description="null: as many as the spec says.")]
    test_examples: int
    licence: str

    @classmethod
    def of(cls, card: DatasetCard) -> "DatasetView":
        return cls(**{name: getattr(card, name) for name in DatasetCard.__dataclass_fields__})


class WorkerView(BaseModel):
    """A process that trains, or reads batches, seen of late."""

    name: str
    queues: list[str]
    device: str
    job_id: Annotated[str | None, Field(description="What it works on: a job, or a batch.")]
    started_at: Time
    seen_at: Time


@router.get("/presets", summary="List presets", responses=documented())
def listed() -> Page[PresetView]:
    """Every preset, in the lecture's order, and those beyond it."""
    return Page(data=[PresetView.of(preset) for preset in PRESETS.values()], has_more=False, next=None)


@router.get("/presets/{name}", summary="Look at a preset", responses=documented(404))
def shown(name: Annotated[str, Path(description="Name of a preset.", examples=["slp-200"])]) -> PresetView:
    """The preset with its spec spelt out."""
    return PresetView.of(presets.find(name))


@router.get("/datasets", summary="List datasets", responses=documented())
def datasets() -> Page[DatasetView]:
    """Every dataset that a spec may name."""
    return Page(data=[DatasetView.of(card) for card in CATALOG.values()], has_more=False, next=None)


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
        )
        for worker in workers.alive(context.db)
    ]
    return Page(data=found, has_more=False, next=None)
