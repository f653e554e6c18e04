"""`numeral keys`: API keys, in the database itself, so that there is a first one. Over HTTP they are at `/v1/keys`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from service.cli.terminal import Json, err, show, told
from service.errors import Invalid
from service.keys import SCOPES, Scope, Secret

if TYPE_CHECKING:
    from service.store.database import Database
    from service.store.keys import Key

DAY = 86_400.0

app = typer.Typer(
    help="API keys: make, list and revoke them, in this machine's database.", no_args_is_help=True
)


@app.command("create")
@told
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="read, predict, train or admin; may be repeated.")],
    days: Annotated[
        float | None, typer.Option(min=0.001, max=3660, help="Days after which it expires. Unset: never.")
    ] = None,
    max_queued_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs that may wait at a time.")] = None,
    max_stored_bytes: Annotated[
        int | None, typer.Option(min=1, help="Bytes of its checkpoints and batches.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests it may make.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its text is shown this once."""
    from service.store import keys
    from service.store.keys import Limits

    secret = Secret.new()
    limits = Limits(max_queued_jobs, max_stored_bytes, requests_per_minute)
    with _database() as database:
        made = keys.create(
            database,
            secret,
            name=_name(name),
            scopes=[_scope(each) for each in scope],
            expires_in=None if days is None else days * DAY,
            limits=limits,
        )
    if not as_json:
        err.print(f"{made.id} may {', '.join(made.scopes)}. This is its text, which is not shown again:")
    show(_row(made) | {"key": secret.text}, secret.text, as_json)


@app.command("list")
@told
def list_keys(as_json: Json = False) -> None:
    """All keys, without their text."""
    from service.store import keys

    found: list[Key] = []
    has_more = True
    with _database() as database:
        while has_more:
            page, has_more = keys.page(database, limit=100, after=found[-1].id if found else None)
            found += page
    table = Table(Column("key", no_wrap=True), "name", "scopes", "state", "last used", "expires")
    for key in found:
        row = _row(key)
        shown = (row["last_used_at"] or "never", row["expires_at"] or "never")
        table.add_row(key.id, key.name, ", ".join(key.scopes), key.state, *shown)
    show([_row(key) for key in found], table, as_json)


@app.command("revoke")
@told
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The first twelve characters of its text.")],
    as_json: Json = False,
) -> None:
    """Let a key be good no longer; running servers refuse it within a second."""
    from service.store import keys

    with _database() as database:
        key = keys.revoke(database, key_id[:12])  # whoever pastes the whole text means that key
    show(_row(key), f"{key.id} ({key.name}) is revoked", as_json)


@contextmanager
def _database() -> "Iterator[Database]":
    """Of the settings, with a schema that knows keys."""
    from service import settings
    from service.store import schema
    from service.store.database import Database

    database = Database(settings.load().database)
    try:
        schema.migrate(database)
        yield database
    finally:
        database.close()


def _name(name: str) -> str:
    if not 0 < len(name) <= 100:
        raise Invalid("a name has 1 to 100 characters", code="bad_name")
    return name


def _scope(given: str) -> Scope:
    for scope in SCOPES:
        if scope == given:
            return scope
    raise Invalid(f"there is no scope {given!r}: there are {', '.join(SCOPES)}", code="unknown_scope")


def _row(key: "Key") -> dict[str, Any]:
    times = {
        name: _time(getattr(key, name)) for name in ("created_at", "last_used_at", "expires_at", "revoked_at")
    }
    return {
        "id": key.id, "name": key.name, "scopes": list(key.scopes), "state": key.state,
        "limits": vars(key.limits), **times,
    }  # fmt: skip


def _time(seconds: float | None) -> str | None:
    from datetime import UTC, datetime

    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
