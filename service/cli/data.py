"""`numeral data`: datasets; `numeral presets`: the experiments that are known by name."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from service.cli.terminal import Json, Output, Url, connected, draw, err, figure, show, told
from service.errors import Invalid

app = typer.Typer(help="Datasets: what there is, pictures of it, and having it here.", no_args_is_help=True)


@app.command("list")
@told
def list_datasets(as_json: Json = False, url: Url = None) -> None:
    """The datasets that a spec may name."""
    with connected(url) as client:
        found = list(client.datasets.list())
    table = Table(Column("dataset", no_wrap=True), "task", "training", "test", "licence", "title")
    for one in found:
        training = "as asked" if one.train_examples is None else f"{one.train_examples:,}"
        name, licence = one.id or one.name, one.licence or "its owner's"
        table.add_row(name, one.task, training, f"{one.test_examples:,}", licence, one.title)
    show([one.as_told() for one in found], table, as_json)


@app.command("samples")
@told
def draw_samples(
    name: Annotated[str, typer.Argument(help="A dataset.")] = "mnist",
    file: Output = None,
    seed: Annotated[int, typer.Option(min=0, help="Which examples are drawn.")] = 0,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """A picture of some examples of a dataset, into the file named, or NAME.png."""
    with connected(url) as client:
        draw(file, f"{name}.png", lambda form: client.datasets.samples(name, seed=seed, format=form), as_json)


@app.command("fetch")
@told
def fetch_data(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist, kmnist or emnist-digits")] = "mnist",
    as_json: Json = False,
) -> None:
    """Make sure that a dataset is on this machine."""
    from service import settings
    from service.catalog import CATALOG, UPLOADED
    from service.data import sources

    fetchable = [known for known in CATALOG if known not in ("simulated", UPLOADED)]
    if name not in fetchable:
        raise Invalid(
            f"{name!r} cannot be fetched: it is none of {', '.join(fetchable)}", code="no_such_dataset"
        )
    loaded = settings.load()
    fetched = sources.fetch(
        CATALOG[name].name, cache_dir=loaded.cache_dir, data_dir=loaded.data_dir, report=err.print
    )
    facts = {"name": name, "source": fetched.source, "folder": str(fetched.folder), "sha256": fetched.digest}
    show(facts, f"{name} is in {fetched.folder} (from {fetched.source})", as_json)


@told
def presets(as_json: Json = False, url: Url = None) -> None:
    """The experiments that `numeral train` knows by name, and the figures published of them."""
    with connected(url) as client:
        found = list(client.presets.list())
    table = Table(Column("preset", no_wrap=True), "what", box=None, padding=(0, 2, 1, 0))
    for preset in found:
        budget = preset.spec.get("budget_seconds")
        length = f"{preset.steps:,} steps" if budget is None else f"{budget:g} seconds"
        size = f"{preset.parameter_count:,} parameters, {length}"
        facts = "; ".join(filter(None, (size, _figures(preset.published))))
        table.add_row(preset.name, f"{preset.title}\n[dim]{facts}[/]")
    show([preset.as_told() for preset in found], table, as_json)


def _figures(published: Mapping[str, Any]) -> str:
    figures = [f"{name.replace('_', ' ')} {figure(name, value)}" for name, value in published.items()]
    return f"published: {', '.join(figures)}" if figures else ""
