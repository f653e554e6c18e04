"""How good a finished job is: its report, its mistakes, and how it stands beside others."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from service.cli import tables
from service.cli.terminal import JobId, Json, Url, connected, existing, show, told
from service.client.requests import given, path_of
from service.errors import Invalid, ServiceError

Digit = Annotated[int | None, typer.Option(min=0, max=9)]


class NoTorch(ServiceError):
    code, title = "no_torch", "PyTorch is not installed"


@told
def report(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """How good a finished job is: by part, by class, and beside what was published."""
    with connected(url) as client:
        found = client.jobs.report(job_id)
    show(found, Group(*tables.of_report(found)), as_json)


@told
def misclassified(
    job_id: JobId,
    true: Digit = None,
    predicted: Digit = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """The test images that a finished job reads wrong, worst first."""
    with connected(url) as client:
        params = given(true=true, predicted=predicted, limit=limit)
        page = client.call("GET", path_of("jobs", job_id, "misclassified"), params=params)
    table = Table("index", "true", "predicted", "confidence", "loss")
    for mistake in page["data"]:
        table.add_row(
            f"{mistake['index']:,}",
            str(mistake["true"]),
            str(mistake["predicted"]),
            f"{mistake['confidence']:.1%}",
            f"{mistake['loss']:.3f}",
        )
    show(page, Group(table, f"{len(page['data']):,} of {page['total']:,}"), as_json)


@told
def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB JOB...", help="Two jobs or more.")],
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Jobs side by side: where their specs differ, how accurate they are, and whether that is luck."""
    with connected(url) as client:
        found = client.jobs.compare(job_ids)
    show(found, Group(*tables.of_comparison(found)), as_json)


@told
def evaluate(
    file: Annotated[Path, typer.Argument(help="Weights as `safetensors`, downloaded from a checkpoint.")],
    as_json: Json = False,
) -> None:
    """Take a report anew, on this machine, from a file of weights; needs PyTorch, and no server."""
    weights = existing(file).read_bytes()
    found = _evaluated(weights, file)
    show(found, Group(*tables.of_report(found)), as_json)


def _evaluated(weights: bytes, file: Path) -> dict[str, Any]:
    from service import checkpoints, settings
    from service.data import datasets

    try:
        import torch

        from service.figures import report as reports
    except ImportError as error:
        detail = f"this needs PyTorch, which is not here ({error}): pip install 'numeral[train]'"
        raise NoTorch(detail) from error
    loaded = settings.load()
    if loaded.threads:  # sums come out the same only with as many as the worker had
        torch.set_num_threads(loaded.threads)
    try:
        spec = checkpoints.decode_weights(weights).spec
        dataset = datasets.load(spec.dataset, cache_dir=loaded.cache_dir, data_dir=loaded.data_dir)
        return reports.make(weights, dataset, device=torch.device("cpu")).data
    except checkpoints.CorruptCheckpoint as error:
        raise Invalid(f"{file} holds no weights of ours: {error}", code="corrupt_weights") from error
