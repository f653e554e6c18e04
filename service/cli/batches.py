"""`numeral batch`: have a large set of images read; `numeral batches`: look at such sets and steer them."""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.table import Column, Table

from service.cli import completion
from service.cli.terminal import Json, ModelRef, Url, connected, err, existing, show, told
from service.client import Batch, Client
from service.errors import Invalid

PIECE_BYTES = 1024**2
LINES, PIXELS = "application/x-ndjson", "application/octet-stream"
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")  # how PNG, JPEG and WebP begin

app = typer.Typer(help="Look at batches and steer them.", no_args_is_help=True)

BatchId = Annotated[str, typer.Argument(help="A batch.", autocompletion=completion.batches)]
Results = Annotated[
    Path | None, typer.Option("--out", "-o", help="The file that the answers go to; it is written over.")
]


@told
def batch(
    files: Annotated[
        list[Path],
        typer.Argument(help="Pictures; or one file of JSON lines, of pixels, or a ZIP of pictures."),
    ],
    model: ModelRef = "latest",
    out: Results = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Have many images read in the background, and write the answers: a line of JSON each, to --out or standard output
    (with --json, to --out only). Exit status 0 only if it succeeded."""
    content = _content(files)
    with connected(url) as client:
        made = client.batches.create(content, model=model, media_type=content.media_type)
        follow(client, made.id, out, as_json)


@app.command("list")
@told
def list_batches(
    state: Annotated[str | None, typer.Option(help="Only batches in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """The newest batches."""
    with connected(url) as client:
        found = list(client.batches.list(limit=limit, state=state))
    table = Table(Column("batch", no_wrap=True), "state", "images", "errors", "created", box=None)
    for one in found:
        counts = one.counts
        table.add_row(one.id, one.state, _share(one), f"{counts['errors']:,}", one.created_at)
    show([one.as_told() for one in found], table, as_json)


@app.command("show")
@told
def show_batch(batch_id: BatchId, as_json: Json = False, url: Url = None) -> None:
    """Everything about a batch."""
    with connected(url) as client:
        found = client.batches.get(batch_id)
    show(found.as_told(), json.dumps(found.as_told(), indent=2), as_json)


@app.command("watch")
@told
def watch_batch(batch_id: BatchId, out: Results = None, as_json: Json = False, url: Url = None) -> None:
    """Follow a batch to its end and write its answers; exit status 0 only if it succeeded."""
    with connected(url) as client:
        follow(client, batch_id, out, as_json)


@app.command("cancel")
@told
def cancel_batch(batch_id: BatchId, as_json: Json = False, url: Url = None) -> None:
    """End a batch; what it has answered stays."""
    with connected(url) as client:
        found = client.batches.cancel(batch_id)
    show(found.as_told(), f"{found.id} is {found.state}", as_json)


@app.command("delete")
@told
def delete_batch(batch_id: BatchId, as_json: Json = False, url: Url = None) -> None:
    """Forget a batch that has ended, with its answers."""
    with connected(url) as client:
        client.batches.delete(batch_id)
    show({"id": batch_id, "deleted": True}, f"{batch_id} is deleted", as_json)


def follow(client: Client, batch_id: str, out: Path | None, as_json: bool) -> None:
    """Show a batch's progress to its end, then write its answers. Exit status 1 unless it succeeded."""
    from service import progress

    found = progress.follow_batch(client, batch_id, err)
    if out is not None or not as_json:
        with _written(out) as file:
            for line in client.batches.lines(batch_id):
                file.write(line + b"\n")
    reason = "" if found.error is None else f": {found.error.detail}"
    where = "" if out is None else f", answers in {out}"
    said = (
        f"{found.id} {found.state}{reason}: {_share(found)} images, {found.counts['errors']:,} errors{where}"
    )
    if as_json:
        show(found.as_told(), "", as_json)
    else:
        err.print(said, highlight=False, markup=False)
    if found.state != "succeeded":
        raise typer.Exit(1)


def _share(found: Batch) -> str:
    return f"{found.counts['done']:,}/{found.counts['total']:,}"


@contextmanager
def _written(out: Path | None) -> Iterator[BinaryIO]:
    """Where answers go; a file has its name only once it is whole. Raises Invalid if it cannot be written."""
    if out is None:
        yield sys.stdout.buffer
        return
    part = out.with_name(f"{out.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise Invalid(f"{out} cannot be written: {error.strerror}", code="unwritable_file") from error
    finally:
        part.unlink(missing_ok=True)


def _content(files: Sequence[Path]) -> "_File | _Pictures":
    """What to send. Raises Invalid for files that do not go together."""
    begins = [_begin(existing(file)) for file in files]
    if all(begin.startswith(PICTURES) for begin in begins):
        return _Pictures(files)
    if len(files) > 1:
        detail = "give pictures (PNG, JPEG, WebP), or one file of JSON lines, of pixels, or a ZIP of pictures"
        raise Invalid(f"these files do not go together: {detail}", code="mixed_files")
    return _File(files[0], LINES if begins[0].lstrip()[:1] in (b"{", b"[", b'"') else PIXELS)


def _begin(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(64)


class _File:
    """A file as it is, in pieces."""

    def __init__(self, path: Path, media_type: str) -> None:
        self._path = path
        self.media_type = media_type

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


class _Pictures:
    """Pictures as lines of JSON, each with its file's name as id."""

    media_type = LINES

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[bytes]:
        for path in self._paths:
            image = base64.b64encode(path.read_bytes()).decode()
            yield json.dumps({"id": str(path), "image": image}).encode() + b"\n"
