"""A sweep: from a base and what is varied to one spec a member.

Pure: the same base, grid or draws, count and seed give the same members in the same order.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service import spec as specs
from service.errors import FieldError, Invalid
from service.mistakes import field_mistake
from service.presets import with_overrides
from service.seeds import derived_seed
from service.spec import TrainingSpec

MISTAKES_READ = 1000  # a hostile request has any number of them
DRAWS_A_MEMBER = 50  # before it counts as impossible to find another one
DIGITS = 6  # of a drawn number, so that it can be read

Grid = Mapping[str, Sequence[Any]]


class Draw(BaseModel):
    """How a field is drawn: evenly from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    low: float | None = None
    high: float | None = None
    log: Annotated[bool, Field(description="Evenly in the logarithm.")] = False
    integer: Annotated[bool, Field(description="Whole numbers, both ends included.")] = False
    choices: Annotated[
        list[Any] | None, Field(min_length=1, description="Values of any kind, each as likely.")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise field_mistake("choices", "stands alone: leave out low, high, log and integer")
            return self
        if self.low is None or self.high is None:
            raise field_mistake("", "give low and high, or choices")
        if self.low >= self.high:
            raise field_mistake("high", f"must be over low, which is {self.low:g}")
        if self.log and self.low <= 0:
            raise field_mistake("low", "must be over 0 where log is set")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise field_mistake("integer", "low and high must be whole numbers")
        return self

    @property
    def possible(self) -> float:
        """How many different values there are."""
        if self.choices is not None:
            return len(self.choices)
        assert self.low is not None, "checked when it was made"
        assert self.high is not None, "checked when it was made"
        return self.high - self.low + 1 if self.integer else math.inf

    def at(self, share: float) -> Any:
        """The value at a share of the way, 0 <= share < 1."""
        if self.choices is not None:
            return self.choices[int(share * len(self.choices))]
        assert self.low is not None, "checked when it was made"
        assert self.high is not None, "checked when it was made"
        low, high = self.low, self.high + 1 if self.integer else self.high
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = math.floor(value) if self.integer else float(f"{value:.{DIGITS}g}")
        return type(value)(min(max(value, self.low), self.high))


@dataclass(frozen=True)
class Member:
    """One spec of a sweep, and in which fields it differs from the base: {"optimizer.learning_rate": 0.01}."""

    changes: dict[str, Any]
    spec: TrainingSpec


@dataclass(frozen=True)
class _Candidate:
    """Changes not yet checked. `pointers` lead to where in the request each was asked for."""

    changes: dict[str, Any]
    pointers: dict[str, str]


class _Reader:
    """Makes members of candidates and gathers the mistakes of those that are none."""

    def __init__(self, base: TrainingSpec, *, elsewhere: str, max_parameters: int) -> None:
        self._base = base.model_dump(mode="json")
        self._elsewhere = elsewhere
        self._max_parameters = max_parameters
        self._found: dict[tuple[str, str], tuple[int, int]] = {}  # mistake -> first member, how many have it
        self._codes: set[str] = set()
        self._read = 0

    def member(self, candidate: _Candidate, index: int) -> Member | None:
        try:
            return Member(candidate.changes, self._spec(candidate.changes))
        except Invalid as error:
            self._codes.add(error.code)
            for item in error.errors:
                pointer = _asked_at(item.pointer, candidate, self._elsewhere)
                self.note(pointer, _named(item, candidate), index)
        return None

    def note(self, pointer: str, detail: str, index: int) -> None:
        first, count = self._found.get((pointer, detail), (index, 0))
        self._found[pointer, detail] = first, count + 1
        self._read += 1

    @property
    def has_read_enough(self) -> bool:
        return self._read >= MISTAKES_READ

    def require_none(self) -> None:
        """Raises Invalid if there was a mistake."""
        if not self._found:
            return
        errors = [
            FieldError(pointer, f"member {first}{_and_more(count - 1)}: {detail}")
            for (pointer, detail), (first, count) in self._found.items()
        ]
        code = self._codes.pop() if len(self._codes) == 1 else "invalid_spec"
        raise Invalid(
            "members of the sweep have mistakes; each is listed with its field", code=code, errors=errors
        )

    def _spec(self, changes: Mapping[str, Any]) -> TrainingSpec:
        merged = with_overrides(self._base, _nested(changes))
        return specs.parse(merged, max_parameters=self._max_parameters)


def _and_more(count: int) -> str:
    return f" and {count:,} more" if count else ""


def _named(item: FieldError, candidate: _Candidate) -> str:
    field = ".".join(_parts(item.pointer))
    value = f"={json.dumps(candidate.changes[field])[:60]}" if field in candidate.changes else ""
    return f"{field}{value}: {item.detail}" if field else item.detail


def of_grid(base: TrainingSpec, grid: Grid, *, elsewhere: str, max_parameters: int) -> list[Member]:
    """Every combination of the values, the last field changing fastest. Raises Invalid that points at each
    mistake: into the grid, or at `elsewhere` if it lies in no varied field; two equal specs are one."""
    _require_fields(list(grid), "#/grid")
    _require_different(grid)
    reader = _Reader(base, elsewhere=elsewhere, max_parameters=max_parameters)
    members: list[Member] = []
    seen: dict[str, int] = {}
    for index, candidate in enumerate(_combinations(grid)):
        member = reader.member(candidate, index)
        if member is not None:
            earlier = seen.setdefault(member.spec.sha256, index)
            if earlier != index:
                reader.note("#/grid", f"its spec is that of member {earlier}: vary something else", index)
            members.append(member)
        if reader.has_read_enough:
            break
    reader.require_none()
    return members


def grid_size(grid: Grid) -> int:
    return math.prod(len(values) for values in grid.values())


def _combinations(grid: Grid) -> Iterator[_Candidate]:
    for places in product(*(range(len(values)) for values in grid.values())):
        chosen = dict(zip(grid, places, strict=True))
        yield _Candidate(
            {field: grid[field][place] for field, place in chosen.items()},
            {field: f"#/grid/{_escaped(field)}/{place}" for field, place in chosen.items()},
        )


def at_random(
    base: TrainingSpec,
    draws: Mapping[str, Draw],
    *,
    count: int,
    seed: int,
    elsewhere: str,
    max_parameters: int,
) -> list[Member]:
    """`count` different members. Each value is a function of the seed, its field and the number of the draw, so
    that a larger count begins with the members of a smaller one. Raises Invalid as `of_grid` does, and if there
    are not so many different ones."""
    _require_fields(list(draws), "#/random")
    _require_different({field: draw.choices for field, draw in draws.items() if draw.choices}, of="choices")
    possible = math.prod(draw.possible for draw in draws.values())
    if possible < count:
        raise _too_few(int(possible))
    reader = _Reader(base, elsewhere=elsewhere, max_parameters=max_parameters)
    members: list[Member] = []
    seen: set[str] = set()
    for index, candidate in enumerate(_drawn(draws, seed=seed, count=count)):
        member = reader.member(candidate, index)
        if member is not None and member.spec.sha256 not in seen:
            seen.add(member.spec.sha256)
            members.append(member)
        if len(members) == count or reader.has_read_enough:
            break
    reader.require_none()
    if len(members) < count:
        raise _too_few(len(members))
    return members


def _too_few(found: int) -> Invalid:
    detail = f"only {found:,} different members were found: ask for fewer, or vary more"
    return Invalid(detail, code="too_few_choices", errors=[FieldError("#/count", detail)])


def _drawn(draws: Mapping[str, Draw], *, seed: int, count: int) -> Iterator[_Candidate]:
    """Draws, those that repeat an earlier one left out."""
    pointers = {field: f"#/random/{_escaped(field)}" for field in draws}
    seen: set[str] = set()
    for number in range(DRAWS_A_MEMBER * count + 100):
        changes = {field: draw.at(_share(seed, field, number)) for field, draw in draws.items()}
        text = json.dumps(changes)
        if text not in seen:
            seen.add(text)
            yield _Candidate(changes, pointers)


def _share(seed: int, field: str, number: int) -> float:
    return (derived_seed(seed, f"sweep/{field}", number) >> 10) / 2.0**53  # as many bits as a float holds


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for field, value in changes.items():
        *blocks, last = field.split(".")
        node = tree
        for block in blocks:
            node = node.setdefault(block, {})
        node[last] = value
    return tree


def _asked_at(pointer: str, candidate: _Candidate, elsewhere: str) -> str:
    """Where in the request the mistake at that pointer of a spec comes from."""
    parts = _parts(pointer)
    for field, asked in candidate.pointers.items():
        path = field.split(".")
        if parts[: len(path)] == path:
            is_value = asked.startswith("#/grid")  # a draw holds no such value to point into
            return asked + "".join(f"/{_escaped(part)}" for part in parts[len(path) :] if is_value)
    for field, asked in candidate.pointers.items():
        if field.split(".")[: len(parts)] == parts:
            return asked
    return elsewhere + pointer.removeprefix("#") if elsewhere == "#/spec" else elsewhere


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _require_fields(fields: Sequence[str], where: str) -> None:
    """Raises Invalid unless each is a field of a spec and none lies within another."""
    errors = []
    for field in fields:
        mistake = _unknown(field)
        outer = next((other for other in fields if field.startswith(f"{other}.")), None)
        if mistake is None and outer is not None:
            mistake = f"lies within {outer}, which is varied too: keep one of the two"
        if mistake is not None:
            errors.append(FieldError(f"{where}/{_escaped(field)}", mistake))
    if errors:
        raise Invalid(
            "the sweep varies what cannot be varied; each is listed", code="unknown_field", errors=errors
        )


def _unknown(field: str) -> str | None:
    """What is wrong with a field's path; None if nothing is."""
    kinds: list[Any] = [TrainingSpec]
    walked: list[str] = []
    for part in field.split("."):
        there = {name: kind for one in kinds for name, kind in _inner(one).items()}
        if part not in there:
            block = ".".join(walked)
            if not there:
                return f"{block} is a value and has no field {part!r}: vary {block}"
            return f"there is no field {part!r} in {block or 'a spec'}; there are {', '.join(sorted(there))}"
        kinds = [inner[part] for one in kinds if part in (inner := _inner(one))]
        walked.append(part)
    return None


def _inner(kind: Any) -> dict[str, Any]:
    """Fields of a block, or of whichever block a union of them may hold, with their types."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _inner(arguments[0])
    if origin in (Union, UnionType):
        return {name: inner for one in arguments for name, inner in _inner(one).items()}
    if origin is dict and get_origin(arguments[0]) is Literal:
        return dict.fromkeys(get_args(arguments[0]), arguments[1])
    return {}


def _require_different(lists: Mapping[str, Sequence[Any]], of: str | None = None) -> None:
    """Raises Invalid if a value is no JSON, or is there twice."""
    errors = []
    for field, values in lists.items():
        where = f"#/random/{_escaped(field)}/{of}" if of else f"#/grid/{_escaped(field)}"
        seen: dict[str, int] = {}
        for place, value in enumerate(values):
            try:
                text = json.dumps(value, sort_keys=True, allow_nan=False)
            except ValueError:
                errors.append(
                    FieldError(f"{where}/{place}", "a number is infinite, or has thousands of digits")
                )
                continue
            earlier = seen.setdefault(text, place)
            if earlier != place:
                errors.append(FieldError(f"{where}/{place}", f"is the same as the value at {earlier}"))
    if errors:
        raise Invalid("the values have mistakes; each is listed", code="invalid", errors=errors)
