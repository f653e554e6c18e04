"""`numeral sweep`, and `numeral sweeps`: many jobs at once, and how they stand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Column, Table

from service.cli import completion
from service.cli.terminal import Json, Output, Url, connected, draw, err, figure, show, told
from service.cli.training import parse_changes, read_request
from service.client import Client, Member, Sweep
from service.errors import Invalid

FLAGS = ("log", "integer")
ROWS_SHOWN = 30

app = typer.Typer(help="Look at sweeps, and cancel them.", no_args_is_help=True)

SweepId = Annotated[str, typer.Argument(help="A sweep.", autocompletion=completion.sweeps)]
Sort = Annotated[str | None, typer.Option(help="Metric to rank by, such as validation_loss; or index.")]


@told
def sweep(
    what: Annotated[
        str,
        typer.Argument(
            help="A preset, a JSON or TOML file with a spec, or - for stdin.",
            autocompletion=completion.presets,
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of all: --set optimizer.learning_rate=0.01"),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", help="Vary a field: --grid seed=0,1,2 --grid batch_size=50,100"),
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option(
            "--random",
            help="Draw a field: --random optimizer.learning_rate=0.001:0.1:log, --random batch_size=32:512:integer, "
            "or out of a list.",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --random: how many.")] = None,
    draw_seed: Annotated[int | None, typer.Option(min=0, help="With --random: of the draws.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for all to end, showing progress.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would come to; submit nothing.")] = False,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 goes first, 9 last.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit a job for every combination, or for so many draws. With --wait, exit status 0 only if all of them
    succeeded."""
    request = read_request(what, parse_changes(changes or [])) | {
        "grid": parse_grid(grid or []) or None,
        "random": parse_random(random or []) or None,
        "count": count,
        "seed": draw_seed,
    }
    if priority is not None:
        request["priority"] = priority
    with connected(url) as client:
        if dry_run:
            _show_dry_run(client.sweeps.dry_run(**request).as_told(), as_json)
            return
        made = client.sweeps.create(**request)
        if wait:
            _follow(client, made.id, as_json)
        else:
            said = f"{made.id} has {made.size:,} jobs; look at it: numeral sweeps show {made.id}"
            show(made.as_told(), said, as_json)


@app.command("list")
@told
def list_sweeps(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False, url: Url = None
) -> None:
    """The newest sweeps."""
    with connected(url) as client:
        found = list(client.sweeps.list(limit=limit))
    columns = (
        Column(name, no_wrap=name == "sweep") for name in ("sweep", "state", "members", "preset", "varies")
    )
    table = Table(*columns, box=None)
    for one in found:
        table.add_row(one.id, one.state, f"{one.size:,}", one.preset, ", ".join(one.fields))
    show([one.as_told() for one in found], table, as_json)


@app.command("show")
@told
def show_sweep(sweep_id: SweepId, sort: Sort = None, as_json: Json = False, url: Url = None) -> None:
    """The members of a sweep, best first."""
    with connected(url) as client:
        found = client.sweeps.get(sweep_id, sort=sort)
    show(found.as_told(), Group(*_standing(found)), as_json)


@app.command("watch")
@told
def watch_sweep(sweep_id: SweepId, as_json: Json = False, url: Url = None) -> None:
    """Follow a sweep to its end; exit status 0 only if all its jobs succeeded."""
    with connected(url) as client:
        _follow(client, sweep_id, as_json)


@app.command("cancel")
@told
def cancel_sweep(sweep_id: SweepId, as_json: Json = False, url: Url = None) -> None:
    """End every member that has not ended."""
    with connected(url) as client:
        found = client.sweeps.cancel(sweep_id)
    show(found.as_told(), f"{found.id} is {found.state}: {_counts(found)}", as_json)


@app.command("plot")
@told
def plot_sweep(
    sweep_id: SweepId,
    name: Annotated[str, typer.Argument(help="metric or series")] = "metric",
    file: Output = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An option of the picture: --set log=true, --set field=optimizer.learning_rate"
        ),
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Draw a picture that compares the members into the file named, or sweep-NAME.png; a .csv holds its
    numbers."""
    chosen = parse_changes(options or [])
    with connected(url) as client:
        draw(
            file,
            f"sweep-{name}.png",
            lambda form: client.sweeps.plot(sweep_id, name, chosen, format=form),
            as_json,
        )


def parse_grid(fields: Sequence[str]) -> dict[str, list[Any]]:
    """`seed=0,1` as {"seed": [0, 1]}; values are JSON, or else texts. Raises Invalid."""
    return {field: _values(text) for field, text in _split("--grid", fields, "seed=0,1,2")}


def parse_random(fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`a.b=0.001:0.1:log` as {"a.b": {"low": 0.001, "high": 0.1, "log": True}}, and a list as its choices.
    Raises Invalid."""
    example = "optimizer.learning_rate=0.001:0.1:log"
    return {field: _draw(field, text) for field, text in _split("--random", fields, example)}


def _draw(field: str, text: str) -> dict[str, Any]:
    low, colon, rest = text.partition(":")
    try:
        limits = {"low": float(low), "high": float(rest.split(":")[0])} if colon else {}
    except ValueError:
        limits = {}
    if not limits:
        return {"choices": _values(text)}
    flags = rest.split(":")[1:]
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        message = f"--random {field}={text}: {unknown[0]!r} is neither {' nor '.join(FLAGS)}"
        raise Invalid(message, code="malformed_change")
    return {**limits, **dict.fromkeys(flags, True)}


def _values(text: str) -> list[Any]:
    """What stands between commas, each as JSON or else as text; commas within brackets part nothing."""
    try:
        return list(json.loads(f"[{text}]"))
    except ValueError:
        return [_value(part) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _split(option: str, fields: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for given in fields:
        field, found, text = given.partition("=")
        if not found or not field or not text:
            raise Invalid(f"{option} {given}: write field=values, such as {example}", code="malformed_change")
        if field in seen:
            raise Invalid(f"{option} {given}: {field} is there already", code="malformed_change")
        seen.add(field)
        yield field, text


def _follow(client: Client, sweep_id: str, as_json: bool) -> None:
    from service import progress

    found = progress.follow_sweep(client, sweep_id, err)
    show(found.as_told(), Group(*_standing(found)), as_json)
    if found.state != "succeeded":
        raise typer.Exit(1)


def _show_dry_run(answer: Mapping[str, Any], as_json: bool) -> None:
    shown = {key: value for key, value in answer.items() if key not in ("spec", "members", "warnings")}
    lines = [f"{key}: {value}" for key, value in shown.items()]
    show(answer, "\n".join([*lines, *(f"warning: {line}" for line in answer["warnings"])]), as_json)


def _standing(found: Sweep) -> Iterator[RenderableType]:
    assert found.metric is not None, "a sweep that is looked at has its members"
    yield f"{found.id} is {found.state}: {_counts(found)}"
    if found.over_seeds:
        yield _over_seeds(found)
    right = ("rank", *_short(found.fields), found.metric)
    columns = [Column(name, justify="right") for name in right]
    table = Table(*columns, "state", Column("job", no_wrap=True), box=None)
    for member in found.members[:ROWS_SHOWN]:
        table.add_row(*_row(member, found))
    yield table
    hidden = found.size - ROWS_SHOWN
    if hidden > 0:
        yield f"{hidden:,} more: see --json"
    yield from (f"warning: {line}" for line in found.warnings)


def _over_seeds(found: Sweep) -> Table:
    """The mean over seeds of what else varies, and how far single ones lie from it."""
    assert found.metric is not None, "a sweep that is looked at has its members"
    fields = [field for field in found.fields if field != "seed"]
    columns = (*_short(fields), "seeds", f"mean {found.metric}", "sd")
    table = Table(*(Column(name, justify="right") for name in columns), box=None)
    for one in found.over_seeds:
        deviation = "" if one["deviation"] is None else f"± {figure(found.metric, one['deviation'])}"
        shown = (_shown(one["changes"][field]) for field in fields)
        table.add_row(*shown, str(one["count"]), figure(found.metric, one["mean"]), deviation)
    return table


def _short(fields: Sequence[str]) -> Sequence[str]:
    """Names without their blocks, where that leaves them different."""
    short = [field.rpartition(".")[2] for field in fields]
    return short if len(set(short)) == len(short) else fields


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _row(member: Member, found: Sweep) -> Iterator[str]:
    assert found.metric is not None, "a sweep that is looked at has its members"
    yield "" if member.rank is None else str(member.rank)
    for field in found.fields:
        yield _shown(member.changes[field])
    yield figure(found.metric, member.metrics.get(found.metric))
    yield member.state
    yield member.job_id


def _counts(found: Sweep) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in found.counts.items() if count)
