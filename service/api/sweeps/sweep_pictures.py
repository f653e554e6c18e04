"""Pictures of sweeps."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from service import plots
from service.api import pictures
from service.api.context import Context, Wired
from service.api.jobs.drawings import NoPicture
from service.api.pictures import DRAWN, UNCHANGED, FileFormat, IfNoneMatch
from service.api.problems import bad_parameters, documented
from service.api.sweeps.sweep_views import known_metric, ranked, value_of, varied
from service.api.sweeps.sweeps import SweepId
from service.errors import FieldError
from service.plots import Axis, Picture, Point, Trial
from service.plots.sweeps import SERIES_SHOWN
from service.store import metrics, sweeps
from service.store.sweeps import MemberRow, Sweep

SweepPlotName = Literal["metric", "series"]
POINTS_A_SERIES = 300

router = APIRouter(prefix="/v1/sweeps", tags=["pictures"])


@dataclass(frozen=True)
class Options:
    """What may be said of a picture; `fields` belong to `metric`, the axis to `series`."""

    metric: str | None
    fields: tuple[str, ...]
    log: bool
    axis: Axis


@dataclass(frozen=True)
class _Subject:
    """A sweep to be drawn."""

    context: Context
    sweep: Sweep
    rows: Sequence[MemberRow]
    options: Options

    @property
    def metric(self) -> str:
        if self.options.metric is None:
            return self.sweep.metric
        return known_metric(self.rows, self.options.metric, "query/metric")

    def compared(self) -> Picture:
        trials = self._trials()
        if all(trial.value is None for trial in trials):
            raise self._nothing()
        fields = self._fields(trials)
        return plots.swept(trials, fields, self.metric, logarithmic=self.options.log)

    def series(self) -> Picture:
        trials = self._trials()
        order = sorted(trials, key=lambda trial: (trial.rank or len(trials) + 1, trial.index))
        found = {trial.index: self._points(trial) for trial in order[:SERIES_SHOWN]}
        shown = {index: points for index, points in found.items() if points}
        if not shown:
            raise self._nothing()
        return plots.overlaid(
            shown, trials, self.metric, axis=self.options.axis, logarithmic=self.options.log
        )

    @property
    def key(self) -> Hashable:
        """Changes with everything that a picture shows."""
        shown = (
            (row.state, row.progress.get("step"), tuple(sorted(row.metrics.items()))) for row in self.rows
        )
        return self.sweep.id, self.options, tuple(shown)

    def _trials(self) -> list[Trial]:
        members = ranked(self.rows, self.metric)
        return [
            Trial(row.number, row.job_id, row.state, row.changes, value_of(row, self.metric), member.rank)
            for row, member in zip(self.rows, members, strict=True)
        ]

    def _points(self, trial: Trial) -> list[Point]:
        values, _ = metrics.page(
            self.context.db,
            trial.job_id,
            names=[self.metric],
            max_points=POINTS_A_SERIES,
            limit=POINTS_A_SERIES,
        )
        return [Point(value.step, value.epoch, value.value) for value in values]

    def _fields(self, trials: Sequence[Trial]) -> list[str]:
        """Those asked for, or all. Raises Invalid for one that does not vary, and for a logarithmic axis that
        there is not, or that cannot show a value."""
        there = varied(self.sweep)
        unknown = [field for field in self.options.fields if field not in there]
        if unknown:
            detail = f"{unknown[0]!r} does not vary in this sweep; there are {', '.join(there)}"
            raise bad_parameters([FieldError("query/field", detail)])
        fields = list(self.options.fields) or plots.differing(trials, there)
        if self.options.log:
            _require_positive(trials, fields)
        return fields

    def _nothing(self) -> NoPicture:
        if self.sweep.counts.keys() <= {"succeeded", "failed", "cancelled", "deleted"}:
            return NoPicture(f"no member that can be ranked has the figure {self.metric}")
        return NoPicture(f"no member has {self.metric} yet: it can be drawn when the first takes figures")


def _require_positive(trials: Sequence[Trial], fields: Sequence[str]) -> None:
    mistake = None
    if len(fields) > 1 or not plots.is_numeric(trials, fields[0]):
        mistake = "needs one field of numbers: name it with field="
    elif any(trial.changes[fields[0]] <= 0 for trial in trials):
        mistake = f"{fields[0]} is not over 0 in every member: leave it out"
    if mistake is not None:
        raise bad_parameters([FieldError("query/log", mistake)])


DRAWERS: dict[SweepPlotName, Callable[[_Subject], Picture]] = {
    "metric": _Subject.compared,
    "series": _Subject.series,
}
_FOREIGN: dict[SweepPlotName, frozenset[str]] = {
    "metric": frozenset({"axis"}),
    "series": frozenset({"field"}),
}


def _options(
    metric: Annotated[
        str | None, Query(max_length=64, description="Unset: by which the sweep ranks its members.")
    ] = None,
    field: Annotated[
        list[str] | None,
        Query(max_length=20, description="metric: against this field alone; may be repeated. Unset: all."),
    ] = None,
    log: Annotated[
        bool, Query(description="metric: the field's axis is logarithmic; series: the metric's.")
    ] = False,
    axis: Annotated[Axis, Query(description="series: what runs from left to right.")] = "step",
) -> Options:
    return Options(metric, tuple(dict.fromkeys(field or ())), log, axis)


@router.get(
    "/{sweep_id}/plots/{name}.{format}",
    response_class=Response,
    summary="A picture of a sweep",
    responses={**documented(404), **DRAWN, **UNCHANGED},
)
def of_sweep(
    context: Wired,
    request: Request,
    sweep_id: SweepId,
    name: Annotated[SweepPlotName, Path(description="Which picture.")],
    file_format: FileFormat,
    options: Annotated[Options, Depends(_options)],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """`metric` shows the members' figures against what varies: along an axis for one field of numbers, as a map
    for two with few values each, else ranked; members that differ in their seed alone as one, with their mean.
    `series` lays the metric's series of the best 50 over each other. Both can be drawn while it goes on."""
    foreign = sorted(_FOREIGN[name].intersection(request.query_params))
    if foreign:
        raise bad_parameters(FieldError(f"query/{one}", f"does not apply to {name}") for one in foreign)
    subject = _Subject(context, *sweeps.get_with_members(context.db, sweep_id), options)
    return pictures.answer(
        context.studio,
        lambda: DRAWERS[name](subject),
        file_format,
        name=f"{sweep_id}-{name}",
        key=(name, subject.key),
        if_none_match=if_none_match,
    )
