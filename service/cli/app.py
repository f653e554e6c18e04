"""Every command in one place, in the order in which `numeral --help` lists them. The modules beside this one
hold them by noun; what is slow to import they import when it is used, so that a command starts at once."""

import os
from typing import Annotated

import typer

from service.cli import (
    batches,
    curves,
    data,
    jobs,
    keys,
    models,
    page,
    pictures,
    processes,
    reading,
    results,
    sweeps,
    training,
    upkeep,
)

COMMANDS = (
    *(processes.up, training.train, sweeps.sweep, reading.predict, reading.read, batches.batch),
    *(results.report, results.misclassified, results.compare, results.evaluate),
    *(curves.curves, pictures.plot, pictures.preview, data.presets, page.open_page),
    *(processes.doctor, processes.demo, processes.serve, processes.worker, processes.batch_worker),
    *(processes.migrate, processes.health, upkeep.backup, upkeep.restore, upkeep.prune),
)
GROUPS = {
    "jobs": jobs.app,
    "sweeps": sweeps.app,
    "batches": batches.app,
    "models": models.app,
    "data": data.app,
    "keys": keys.app,
}

app = typer.Typer(
    name="numeral",
    help="Train multi-layer perceptrons and read handwritten digits with them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command("open" if command is page.open_page else None)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("numeral"))
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            help="For a server that asks for one; better set as NUMERAL_API_KEY, which no list of processes shows.",
        ),
    ] = None,
) -> None:
    """Train multi-layer perceptrons and read handwritten digits with them."""
    del asked
    if api_key is not None:
        os.environ["NUMERAL_API_KEY"] = api_key  # where every client of this process looks for it


def main() -> None:
    app()
