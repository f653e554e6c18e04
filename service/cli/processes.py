"""Commands that run a part of the service on this machine, or look at it."""

import os
import re
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service.cli.terminal import Json, err, show, told
from service.errors import Invalid, ServiceError

if TYPE_CHECKING:
    from service.settings import Settings


@told
def up() -> None:
    """Run everything here: API, workers and embedded broker. One Ctrl-C stops all."""
    from service import settings
    from service.observing import logs
    from service.running.supervisor import Supervisor
    from service.store import host

    loaded = settings.load()
    logs.configure(loaded, "numeral")
    with host.held(loaded.database), Supervisor(loaded).running() as supervisor:
        supervisor.await_ready()
        err.print(f"Numeral is ready at {supervisor.url} (files in {loaded.home}); Ctrl-C stops it.")
        supervisor.wait()


@told
def serve() -> None:
    """Run the API alone."""
    from service import settings
    from service.api.server import serve as run
    from service.observing import logs
    from service.store import host

    loaded = settings.load()
    logs.configure(loaded, "api")
    with host.held(loaded.database):
        if loaded.requires_key:
            _require_admin(loaded)
        run(loaded)


def _require_admin(loaded: "Settings") -> None:
    """Before anything listens, so that what is missing is a sentence and not the end of a traceback."""
    from service.running import admin_key
    from service.store import schema
    from service.store.database import Database

    database = Database(loaded.database)
    try:
        schema.migrate(database)
        admin_key.ready(loaded, database)
    finally:
        database.close()


@told
def worker(
    devices: Annotated[
        str | None,
        typer.Option(
            help="auto: every GPU of this machine, a training process each, or the CPU if there is none; cpu; cuda; "
            "or numbers of GPUs, such as 0,2. Unset: as NUMERAL_DEVICE says."
        ),
    ] = None,
) -> None:
    """Run a worker alone: it trains."""
    if devices is not None:
        os.environ |= _chosen(devices)
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - the same interpreter


def _chosen(devices: str) -> dict[str, str]:
    """What has a worker train there, as variables that it reads. Raises Invalid."""
    if devices in ("auto", "cpu", "cuda"):
        return {"NUMERAL_DEVICE": devices}
    if re.fullmatch(r"\d+(,\d+)*", devices) is None:
        detail = f"--devices is auto, cpu, cuda or numbers of GPUs such as 0,2, and not {devices!r}"
        raise Invalid(detail, code="bad_devices")
    return {"NUMERAL_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": devices}


@told
def batch_worker() -> None:
    """Run a batch worker alone: it reads batches."""
    from service import bulk, settings
    from service.observing import logs
    from service.store import host

    loaded = settings.load()
    logs.configure(loaded, "batches")
    with host.held(loaded.database):
        bulk.run(loaded)


@told
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema up to date."""
    from service import settings
    from service.store import host, schema
    from service.store.database import Database

    loaded = settings.load()
    with host.held(loaded.database):
        database = Database(loaded.database)
        try:
            before, after = schema.migrate(database)
        finally:
            database.close()
    moved = f"from {before or 'an empty database'} to {after}" if before != after else f"was at {after}"
    show({"before": before, "after": after}, f"The schema {moved}.", as_json)


@told
def health() -> None:
    """Say whether a worker of this host is alive, as containers are asked: exit status 0 or 1."""
    from service import settings
    from service.store import workers
    from service.store.database import Database

    database = Database(settings.load().database)
    try:
        alive = workers.alive(database)
    finally:
        database.close()
    if not any(worker.name.startswith(f"{socket.gethostname()}:") for worker in alive):
        raise ServiceError("no worker of this host has said of late that it lives", code="unhealthy")


@told
def demo() -> None:
    """Train the lecture's first classifier and read twenty digits with it."""
    from service import settings
    from service.demo import run
    from service.observing import logs

    os.environ.setdefault("NUMERAL_LOG_LEVEL", "warning")  # of the service behind it too
    loaded = settings.load()
    logs.configure(loaded, "numeral")
    raise typer.Exit(run(loaded, stay=not os.environ.get("DEMO_EXIT")))


@told
def doctor(as_json: Json = False) -> None:
    """Check this machine and its services, and say what is wrong and what to do."""
    from dataclasses import asdict

    from service.running.doctor import examine

    findings = examine()
    table = Table("", "what", "found", "remedy")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}
    for finding in findings:
        table.add_row(marks[finding.level], finding.what, finding.found, finding.remedy)
    show([asdict(finding) for finding in findings], table, as_json)
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)
