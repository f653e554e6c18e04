"""`numeral open`: the page in a browser."""

from typing import Annotated

import typer

from service.cli import completion
from service.cli.terminal import Json, Url, connected, show, told


@told
def open_page(
    what: Annotated[
        str,
        typer.Argument(
            help=f"A job, or a view: {', '.join(completion.VIEWS)}.", autocompletion=completion.views
        ),
    ] = "",
    browser: Annotated[bool, typer.Option(help="Open it; or else only say where it is.")] = True,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Open the page in a browser, to draw a digit or to look at a job."""
    with connected(url) as client:
        client.call("GET", "/livez")  # rather a sentence here than a browser's page of error
        where = f"{client.url}/{f'jobs/{what}' if what.startswith('job_') else what}"
    show({"url": where}, where, as_json)
    if browser:
        typer.launch(where)
