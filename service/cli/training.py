"""`numeral train`, and how it reads what to train."""

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import completion
from service.cli.jobs import follow
from service.cli.terminal import Json, Url, connected, show, told
from service.errors import Invalid

REQUEST_FIELDS = frozenset({"preset", "spec", "metadata", "priority"})


@told
def train(
    what: Annotated[
        str,
        typer.Argument(
            help="A preset, a JSON or TOML file with a spec, or - for stdin.",
            autocompletion=completion.presets,
        ),
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set optimizer.learning_rate=0.01")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the job to end, showing progress.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would come to; submit nothing.")] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="If a job has trained just this before, take that one.")
    ] = False,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 goes first, 9 last.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit a training job. With --wait, exit status 0 only if it succeeded."""
    request = read_request(what, parse_changes(changes or []))
    if priority is not None:
        request["priority"] = priority
    with connected(url) as client:
        if dry_run:
            _show_dry_run(client.jobs.dry_run(**request, reuse=reuse).as_told(), as_json)
            return
        job = client.jobs.create(**request, reuse=reuse)
        if wait:
            follow(client, job.id, as_json)
        elif job.ended:
            show(job.as_told(), f"{job.id} has done this before: it {job.state}", as_json)
        else:
            said = f"{job.id} is {job.state}; follow it: numeral jobs watch {job.id}"
            show(job.as_told(), said, as_json)


def _show_dry_run(answer: Mapping[str, Any], as_json: bool) -> None:
    shown = {key: value for key, value in answer.items() if key != "spec" and value is not None}
    show(answer, "\n".join(f"{key}: {value}" for key, value in shown.items()), as_json)


def read_request(what: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What to submit, some of `preset spec metadata priority`: a preset's name, or a file that holds a spec or
    all of these; with the changes laid over the spec."""
    from service.presets import with_overrides

    if what != "-" and not Path(what).is_file():
        if Path(what).suffix in (".json", ".toml"):
            raise Invalid(f"there is no file {what}", code="no_such_file")
        return {"preset": what, "spec": dict(changes)}
    found = _read_file(what)
    request = found if found.keys() & REQUEST_FIELDS else {"spec": found}
    unknown = sorted(request.keys() - REQUEST_FIELDS)
    if unknown:
        beside = ", ".join(sorted(request.keys() & REQUEST_FIELDS))
        raise Invalid(f"{what} has {unknown[0]!r} beside {beside}: put it into spec", code="malformed_spec")
    spec = {} if request.get("spec") is None else request["spec"]
    if not isinstance(spec, dict):
        raise Invalid(f"the spec in {what} must be an object", code="malformed_spec")
    return request | {"spec": with_overrides(spec, changes)}


def _read_file(what: str) -> dict[str, Any]:
    """The object in a JSON or TOML file, or on standard input."""
    try:
        text = sys.stdin.read() if what == "-" else Path(what).read_text()
        found = tomllib.loads(text) if Path(what).suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise Invalid(f"{what} cannot be read: {error}", code="malformed_spec") from error
    if not isinstance(found, dict):
        raise Invalid(f"{what} must hold one object: a training spec", code="malformed_spec")
    return found


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; a value that is no JSON is text. Raises Invalid."""
    tree: dict[str, Any] = {}
    for change in changes:
        path, found, text = change.partition("=")
        if not found or not path:
            raise Invalid(f"--set {change}: write field=value, such as seed=3", code="malformed_change")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *blocks, last = path.split(".")
        node = tree
        for block in blocks:
            node = node.setdefault(block, {})
            if not isinstance(node, dict):
                raise Invalid(f"--set {change}: {block} is set to a value too", code="malformed_change")
        node[last] = value
    return tree
