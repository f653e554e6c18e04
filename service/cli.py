"""The command `numeral`. Data goes to standard output, progress and mistakes to standard error; with
`--json` the output is JSON for scripts. Exit status: 0 done, 1 failed or refused, 2 wrong usage."""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service import logs
from service import settings as settings_module
from service.client import ApiError, Client, Job, Model, Unreachable
from service.errors import Invalid, ServiceError
from service.presets import with_overrides

P = ParamSpec("P")

REQUEST_FIELDS = frozenset({"preset", "spec", "metadata", "priority"})

out = Console()
err = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    name="numeral",
    help="Train multi-layer perceptrons and read handwritten digits with them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
jobs_app = typer.Typer(help="Look at jobs and steer them.", no_args_is_help=True)
models_app = typer.Typer(help="Look at models and point aliases at them.", no_args_is_help=True)
data_app = typer.Typer(help="Datasets on this machine.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(version("numeral"))
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train multi-layer perceptrons and read handwritten digits with them."""
    del asked


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="NUMERAL_URL", help="Server (http://127.0.0.1:8000).")
]


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors meant for people into a sentence and exit status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ApiError as error:
            err.print(f"[red]{error.code}[/]: {escape(str(error))}")
        except ServiceError as error:
            err.print(f"[red]{error.code}[/]: {escape(error.detail)}")
        except Unreachable as error:
            err.print(f"{escape(str(error))}\nIs it running? `numeral up` starts it.")
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        else:
            return
        raise typer.Exit(1)

    return run


@app.command()
@told
def up() -> None:
    """Run everything here: API, worker and embedded broker. One Ctrl-C stops all."""
    from service.supervisor import Supervisor

    settings = settings_module.load()
    logs.configure(settings, "numeral")
    with Supervisor(settings).running() as supervisor:
        supervisor.await_ready()
        err.print(f"Numeral is ready at {supervisor.url} (files in {settings.home}); Ctrl-C stops it.")
        supervisor.wait()


@app.command()
@told
def serve() -> None:
    """Run the API alone."""
    from service.api.server import serve as run

    settings = settings_module.load()
    logs.configure(settings, "api")
    run(settings)


@app.command()
@told
def worker() -> None:
    """Run a worker alone: it trains."""
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - the same interpreter


@app.command()
@told
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema up to date."""
    from service.store import schema
    from service.store.database import Database

    database = Database(settings_module.load().database)
    try:
        before, after = schema.migrate(database)
    finally:
        database.close()
    moved = f"from {before or 'an empty database'} to {after}" if before != after else f"was at {after}"
    _show({"before": before, "after": after}, f"The schema {moved}.", as_json)


@app.command()
@told
def demo() -> None:
    """Train the lecture's first classifier and read twenty digits with it."""
    from service.demo import run

    os.environ.setdefault("NUMERAL_LOG_LEVEL", "warning")  # of the service behind it too
    settings = settings_module.load()
    logs.configure(settings, "numeral")
    raise typer.Exit(run(settings, stay=not os.environ.get("DEMO_EXIT")))


@app.command()
@told
def train(
    what: Annotated[str, typer.Argument(help="A preset, a JSON or TOML file with a spec, or - for stdin.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set optimizer.learning_rate=0.01")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the job to end, showing progress.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would come to; submit nothing.")] = False,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 goes first, 9 last.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit a training job. With --wait, exit status 0 only if it succeeded."""
    request = _read_request(what, _parse_changes(changes or []))
    if priority is not None:
        request["priority"] = priority
    with Client(url) as client:
        if dry_run:
            answer = client.jobs.dry_run(**request)
            lines = "\n".join(f"{key}: {value}" for key, value in answer.items() if key != "spec")
            _show(answer, lines, as_json)
            return
        job = client.jobs.create(**request)
        if wait:
            _follow(client, job.id, as_json)
        else:
            _show(
                job.model_dump(), f"{job.id} is {job.state}; follow it: numeral jobs watch {job.id}", as_json
            )


def _read_request(what: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What to submit, some of `preset spec metadata priority`: a preset's name, or a file that holds a spec or
    all of these; with the changes laid over the spec."""
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


def _parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; a value that is no JSON is text."""
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


def _follow(client: Client, job_id: str, as_json: bool) -> None:
    from service.progress import follow

    job = follow(client, job_id, err)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in sorted(job.metrics.items()))
    reason = "" if job.error is None else f": {job.error.get('detail')}"
    _show(job.model_dump(), f"{job.id} {job.state}{reason}\n{figures}", as_json)
    if job.state != "succeeded":
        raise typer.Exit(1)


@jobs_app.command("list")
@told
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """The newest jobs."""
    with Client(url) as client:
        found = client.jobs.list(limit=limit, state=state)
    table = Table(Column("job", no_wrap=True), "state", "preset", "step", "test accuracy", "created")
    for job in found:
        table.add_row(job.id, job.state, job.preset, _steps(job), _accuracy(job.metrics), job.created_at)
    _show([job.model_dump() for job in found], table, as_json)


@jobs_app.command("show")
@told
def show_job(job_id: str, as_json: Json = False, url: Url = None) -> None:
    """Everything about a job."""
    with Client(url) as client:
        job = client.jobs.get(job_id)
    _show(job.model_dump(), json.dumps(job.model_dump(), indent=2), as_json)


@jobs_app.command("watch")
@told
def watch_job(job_id: str, as_json: Json = False, url: Url = None) -> None:
    """Follow a job to its end; exit status 0 only if it succeeded."""
    with Client(url) as client:
        _follow(client, job_id, as_json)


@jobs_app.command("cancel")
@told
def cancel_job(job_id: str, as_json: Json = False, url: Url = None) -> None:
    """End a job."""
    _steer(lambda client: client.jobs.cancel(job_id), as_json, url)


@jobs_app.command("pause")
@told
def pause_job(job_id: str, as_json: Json = False, url: Url = None) -> None:
    """Let a job save and stop for now."""
    _steer(lambda client: client.jobs.pause(job_id), as_json, url)


@jobs_app.command("resume")
@told
def resume_job(job_id: str, as_json: Json = False, url: Url = None) -> None:
    """Let a paused job go on."""
    _steer(lambda client: client.jobs.resume(job_id), as_json, url)


def _steer(act: Callable[[Client], Job], as_json: bool, url: str | None) -> None:
    with Client(url) as client:
        job = act(client)
    _show(job.model_dump(), f"{job.id} is {job.state}", as_json)


@models_app.command("list")
@told
def list_models(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False, url: Url = None
) -> None:
    """The newest models and the aliases that point at them."""
    with Client(url) as client:
        found = client.models.list(limit=limit)
        aliases = client.models.aliases()
    table = Table(
        "version",
        Column("model", no_wrap=True),
        "aliases",
        "preset",
        "parameters",
        "test accuracy",
        "created",
    )
    for model in found:
        names = ", ".join(alias["name"] for alias in aliases if alias["model"] == model.id)
        table.add_row(*_model_row(model, names))
    _show({"models": [model.model_dump() for model in found], "aliases": aliases}, table, as_json)


@models_app.command("promote")
@told
def promote_model(
    reference: Annotated[str, typer.Argument(help="A model id, latest, or an alias.")],
    alias: Annotated[str, typer.Option("--as", help="The alias to point at it.")] = "champion",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Point an alias at a model."""
    with Client(url) as client:
        answer = client.models.promote(alias, reference)
    _show(answer, f"{alias} is {answer['model']}", as_json)


@models_app.command("rollback")
@told
def roll_back_alias(
    alias: Annotated[str, typer.Argument()] = "champion", as_json: Json = False, url: Url = None
) -> None:
    """Point an alias at what it pointed at before."""
    with Client(url) as client:
        answer = client.models.rollback(alias)
    _show(answer, f"{alias} is {answer['model']}", as_json)


@app.command()
@told
def predict(
    files: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP pictures of one digit each.")],
    model: Annotated[str, typer.Option(help="A model id, latest, or an alias.")] = "latest",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Read digits."""
    for file in files:
        if not file.is_file():
            raise Invalid(f"there is no file {file}", code="no_such_file")
    with Client(url) as client:
        answer = client.predict(list(files), model=model)
    table = Table("file", "digit", "confidence", "warnings")
    for file, digit in zip(files, answer.predictions, strict=True):
        table.add_row(str(file), str(digit.label), f"{digit.confidence:.1%}", ", ".join(digit.warnings))
    _show(answer.model_dump(), table, as_json)


@data_app.command("fetch")
@told
def fetch_data(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist, kmnist or emnist-digits")] = "mnist",
    as_json: Json = False,
) -> None:
    """Make sure that a dataset is on this machine."""
    from service.catalog import CATALOG
    from service.data import sources

    fetchable = [known for known in CATALOG if known != "simulated"]
    if name not in fetchable:
        raise Invalid(
            f"{name!r} cannot be fetched: it is none of {', '.join(fetchable)}", code="no_such_dataset"
        )
    settings = settings_module.load()
    fetched = sources.fetch(
        CATALOG[name].name, cache_dir=settings.cache_dir, data_dir=settings.data_dir, report=err.print
    )
    facts = {"name": name, "source": fetched.source, "folder": str(fetched.folder), "sha256": fetched.digest}
    _show(facts, f"{name} is in {fetched.folder} (from {fetched.source})", as_json)


@app.command()
@told
def doctor(as_json: Json = False) -> None:
    """Check this machine and its services, and say what is wrong and what to do."""
    from service.doctor import examine

    findings = examine()
    table = Table("", "what", "found", "remedy")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}
    for finding in findings:
        table.add_row(marks[finding.level], finding.what, finding.found, finding.remedy)
    _show([asdict(finding) for finding in findings], table, as_json)
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)


def _show(data: Any, text: str | Table, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    elif isinstance(text, str):
        typer.echo(text)
    else:
        out.print(text)


def _steps(job: Job) -> str:
    return "" if job.progress is None else f"{job.progress['step']:,} / {job.progress['steps']:,}"


def _accuracy(metrics: Mapping[str, float]) -> str:
    return f"{metrics['test_accuracy']:.2%}" if "test_accuracy" in metrics else ""


def _model_row(model: Model, names: str) -> Sequence[str]:
    return (
        str(model.version),
        model.id,
        names,
        model.preset or "",
        f"{model.parameter_count:,}",
        _accuracy(model.metrics),
        model.created_at,
    )


def main() -> None:
    app()


if __name__ == "__main__":
    main()
