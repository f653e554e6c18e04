"""`numeral jobs`: look at jobs and steer them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from service.cli.terminal import JobId, Json, Url, accuracy, connected, err, show, told
from service.client import Client, Job
from service.errors import Invalid

app = typer.Typer(help="Look at jobs and steer them.", no_args_is_help=True)


@app.command("list")
@told
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only jobs of this sweep.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """The newest jobs."""
    with connected(url) as client:
        found = list(client.jobs.list(limit=limit, state=state, sweep=sweep))
    # whole ids also on eighty columns, since they are there to be copied; what gives way is the preset
    columns = (Column(name, no_wrap=name != "preset") for name in ("job", "state", "preset", "step", "test"))
    table = Table(*columns, box=None)
    for job in found:
        table.add_row(job.id, job.state, job.preset, _steps(job), accuracy(job.metrics))
    show([job.as_told() for job in found], table, as_json)


@app.command("show")
@told
def show_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """Everything about a job."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
    show(job.as_told(), json.dumps(job.as_told(), indent=2), as_json)


@app.command("watch")
@told
def watch_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """Follow a job to its end; exit status 0 only if it succeeded."""
    with connected(url) as client:
        follow(client, job_id, as_json)


@app.command("cancel")
@told
def cancel_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """End a job."""
    _steer(lambda client: client.jobs.cancel(job_id), as_json, url)


@app.command("pause")
@told
def pause_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """Let a job save and stop for now."""
    _steer(lambda client: client.jobs.pause(job_id), as_json, url)


@app.command("resume")
@told
def resume_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """Let a paused job go on."""
    _steer(lambda client: client.jobs.resume(job_id), as_json, url)


@app.command("tensorboard")
@told
def write_events(
    job_id: JobId,
    folder: Annotated[Path, typer.Argument(help="What `tensorboard --logdir` is given.")] = Path("runs"),
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Write a job's series into FOLDER/JOB, as a run that TensorBoard shows."""
    try:
        with connected(url) as client:
            file = client.jobs.tensorboard(job_id, folder)
    except OSError as error:
        raise Invalid(f"{folder} cannot be written to: {error.strerror}", code="unwritable_file") from error
    size = file.stat().st_size
    show({"file": str(file), "bytes": size}, f"wrote {file} ({size:,} bytes)", as_json)


def follow(client: Client, job_id: str, as_json: bool) -> None:
    """Show a job's progress to its end, and then the job. Exit status 1 unless it succeeded."""
    from service import progress

    job = progress.follow(client, job_id, err)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in sorted(job.metrics.items()))
    reason = "" if job.error is None else f": {job.error.detail}"
    show(job.as_told(), f"{job.id} {job.state}{reason}\n{figures}", as_json)
    if job.state != "succeeded":
        raise typer.Exit(1)


def _steer(act: Callable[[Client], Job], as_json: bool, url: str | None) -> None:
    with connected(url) as client:
        job = act(client)
    show(job.as_told(), f"{job.id} is {job.state}", as_json)


def _steps(job: Job) -> str:
    step, steps = job.progress.step, job.progress.steps  # None while the speed is to be measured
    return "" if step is None else f"{step:,}/{'?' if steps is None else format(steps, ',')}"
