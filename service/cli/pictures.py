"""Pictures into files: of a job, and of deformed training images."""

from typing import Annotated

import typer

from service.cli.terminal import JobId, Json, Output, Url, connected, draw, told
from service.cli.training import parse_changes


@told
def plot(
    job_id: JobId,
    name: Annotated[
        str,
        typer.Argument(
            help="loss, accuracy, samples, augmented, misclassified, confusion, calibration, weights or fitted"
        ),
    ],
    file: Output = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the picture: --set true=4, --set log=true")
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Draw a picture of a job into the file named, or NAME.png; a .csv holds its numbers."""
    chosen = parse_changes(options or [])
    with connected(url) as client:
        draw(
            file,
            f"{name}.png",
            lambda form: client.jobs.plot(job_id, name, chosen, format=form),
            as_json,
        )


@told
def preview(
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the augmentation block: --set rotation=15 --set elastic=1.2"),
    ] = None,
    dataset: Annotated[str, typer.Option(help="Whose images are deformed.")] = "mnist",
    seed: Annotated[int, typer.Option(min=0, help="Which images, and how they are deformed.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="How many images.")] = None,
    variants: Annotated[int | None, typer.Option(min=1, help="How many variants of each.")] = None,
    progress: Annotated[
        float | None, typer.Option(min=0, max=1, help="At which share of the run, for its amplitude.")
    ] = None,
    file: Output = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Draw images above and deformed ones below, into the file named, or preview.png."""
    block = parse_changes(changes or [])
    with connected(url) as client:
        draw(
            file,
            "preview.png",
            lambda form: client.datasets.preview(
                block,
                dataset=dataset,
                seed=seed,
                count=count,
                variants=variants,
                progress=progress,
                format=form,
            ),
            as_json,
        )
