"""`numeral models`: look at models and point aliases at them."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Column, Table

from service.cli import completion
from service.cli.terminal import Json, Url, accuracy, connected, show, told
from service.client import Model

app = typer.Typer(help="Look at models and point aliases at them.", no_args_is_help=True)


@app.command("list")
@told
def list_models(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False, url: Url = None
) -> None:
    """The newest models and the aliases that point at them."""
    with connected(url) as client:
        found = list(client.models.list(limit=limit))
        aliases = list(client.models.aliases())
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
        names = ", ".join(alias.name for alias in aliases if alias.model == model.id)
        table.add_row(*_row(model, names))
    show(
        {"models": [model.as_told() for model in found], "aliases": [alias.as_told() for alias in aliases]},
        table,
        as_json,
    )


def _row(model: Model, names: str) -> Sequence[str]:
    return (
        str(model.version),
        model.id,
        names,
        model.preset or "",
        f"{model.parameter_count:,}",
        accuracy(model.metrics),
        model.created_at,
    )


@app.command("promote")
@told
def promote_model(
    reference: Annotated[
        str, typer.Argument(help="A model id, latest, or an alias.", autocompletion=completion.models)
    ],
    alias: Annotated[str, typer.Option("--as", help="The alias to point at it.")] = "champion",
    unless_worse: Annotated[
        bool, typer.Option("--unless-worse", help="Only if a paired test on the test set does not say so.")
    ] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Point an alias at a model. Exit status 0 only if it stands for it."""
    with connected(url) as client:
        promote = client.models.promote_unless_worse if unless_worse else client.models.promote
        answer = promote(alias, reference)
    show(answer.as_told(), f"{alias} is {answer.model}", as_json)


@app.command("rollback")
@told
def roll_back_alias(
    alias: Annotated[str, typer.Argument()] = "champion", as_json: Json = False, url: Url = None
) -> None:
    """Point an alias at what it pointed at before."""
    with connected(url) as client:
        answer = client.models.rollback(alias)
    show(answer.as_told(), f"{alias} is {answer.model}", as_json)
