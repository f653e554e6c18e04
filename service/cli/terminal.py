"""What every command says, and how: answers, mistakes, files; and the options that many of them have."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from service.cli import completion
from service.client import ApiError, Client, NumeralError, Unreachable
from service.errors import Conflict, Invalid, ServiceError
from service.observing.redaction import redacted

P = ParamSpec("P")

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses
PATIENCE = 3.0  # seconds that a person waits for a server that may just be starting

FORMATS = ("png", "svg", "csv")  # of a picture; csv is its numbers

REMEDY = (
    "Is it running? `numeral up` starts one here, `numeral doctor` says what is wrong with it; NUMERAL_URL or --url "
    "names another."
)

out = Console()
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file (.png, .svg or .csv); it is written over.")
]
JobId = Annotated[str, typer.Argument(help="A job.", autocompletion=completion.jobs)]
ModelRef = Annotated[
    str, typer.Option("--model", help="A model id, latest, or an alias.", autocompletion=completion.models)
]
Url = Annotated[
    str | None, typer.Option("--url", envvar="NUMERAL_URL", help="Server (http://127.0.0.1:8000).")
]


def connected(url: str | None) -> Client:
    """The client that a command asks with."""
    return Client(url, patience=PATIENCE)


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors meant for people into a sentence and an exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ApiError as error:
            err.print(f"[red]{error.code}[/]: {escape(redacted(str(error)))}")
        except ServiceError as error:
            err.print(f"[red]{error.code}[/]: {escape(redacted(error.detail))}")
        except Unreachable as error:
            err.print(f"{escape(redacted(str(error)))}\n{REMEDY}")
            raise typer.Exit(UNREACHABLE) from None
        except NumeralError as error:
            err.print(escape(redacted(str(error))))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        else:
            return
        raise typer.Exit(FAILED)

    return run


def show(data: Any, text: RenderableType, as_json: bool) -> None:
    """Print the data as JSON, or else what a person reads."""
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    elif isinstance(text, str):
        typer.echo(text)
    else:
        out.print(text)


def existing(file: Path) -> Path:
    """The file. Raises Invalid if there is none."""
    if not file.is_file():
        raise Invalid(f"there is no file {file}", code="no_such_file")
    return file


def draw(file: Path | None, default: str, picture: Callable[[str], bytes], as_json: bool) -> None:
    """Write a picture in the format of the file's ending, and say where. A file that was named is written
    over, as other tools do; `default`, which stands in for one that was not, never. Raises Invalid for an
    ending of no format and for a file that cannot be written, Conflict if the default is there already."""
    if file is None:
        file = Path(default)
        if file.exists():
            raise Conflict(f"{file} is there already: name a file with -o", code="file_exists")
    format_ = file.suffix.lower().removeprefix(".")
    if format_ not in FORMATS:
        raise Invalid(f"{file} must end in .{' or .'.join(FORMATS)}", code="unknown_format")
    data = picture(format_)
    try:
        file.write_bytes(data)
    except OSError as error:
        raise Invalid(f"{file} cannot be written: {error.strerror}", code="unwritable_file") from error
    show({"file": str(file), "bytes": len(data)}, f"wrote {file} ({len(data):,} bytes)", as_json)


def accuracy(metrics: Mapping[str, float]) -> str:
    """The test accuracy, if there is one."""
    return f"{metrics['test_accuracy']:.2%}" if "test_accuracy" in metrics else ""


def figure(name: str, value: float | None) -> str:
    """A figure as its name asks for: accuracies in per cent, counts whole, the rest to four digits."""
    if value is None:
        return "-"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
