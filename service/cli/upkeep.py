"""Commands that keep what is kept: copies of it, and room for more."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.terminal import Json, show, told

if TYPE_CHECKING:
    from service.running.backup import Manifest
    from service.store.database import Database
    from service.store.retention import Policy

FOLDER = Annotated[Path, typer.Argument(help="A folder; of a backup it must not be there yet.")]
ROUND_SECONDS = 60.0


@told
def backup(folder: FOLDER, as_json: Json = False) -> None:
    """Back the SQLite database up, while the service runs."""
    from service import settings
    from service.running.backup import backup as made

    _tell(made(settings.load(), folder), f"backed up to {folder}", as_json)


@told
def restore(folder: FOLDER, as_json: Json = False) -> None:
    """Put a backup where NUMERAL_HOME has no database yet; start the service afterwards."""
    from service import settings
    from service.running.backup import restore as put
    from service.store import host

    loaded = settings.load()
    with host.held(loaded.database):
        _tell(put(loaded, folder), f"restored from {folder}", as_json)


def _tell(manifest: "Manifest", what: str, as_json: bool) -> None:
    from dataclasses import asdict

    counts = ", ".join(f"{count} of {name}" for name, count in manifest.rows.items())
    text = f"{what}: {manifest.bytes:,} bytes as of {manifest.made_at} ({counts}), SHA-256 {manifest.sha256}"
    show(asdict(manifest), text, as_json)


@told
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Let go of what NUMERAL_KEEP_CHECKPOINTS_DAYS and NUMERAL_KEEP_BATCHES_DAYS say, and of garbage; safe while the
    service runs, which does so itself by and by. Models stay, so does all that an alias points at."""
    from service import settings
    from service.store import schema
    from service.store.database import Database
    from service.store.retention import Policy

    loaded = settings.load()
    policy = Policy(loaded.keep_checkpoints_days, loaded.keep_batches_days)
    database = Database(loaded.database)
    try:
        schema.migrate(database)
        found = _found(database, policy)
        if not dry_run:
            _let_go(database, policy)
    finally:
        database.close()
    verb = "would go" if dry_run else "went"
    text = (
        f"{found['checkpoints']} checkpoints, {found['states']} resumable states, {found['batches']} batches "
        f"({found['bytes']:,} bytes) and {found['deleted_jobs']} deleted jobs {verb}; "
        f"{found['garbage_bytes']:,} bytes that nothing names {verb} too"
    )
    show(found | {"dry_run": dry_run}, text, as_json)


def _found(database: "Database", policy: "Policy") -> dict[str, int]:
    from dataclasses import asdict

    from service.store import garbage, retention

    deleted, loose = garbage.waiting(database)
    return asdict(retention.old(database, policy)) | {"deleted_jobs": deleted, "garbage_bytes": loose}


def _let_go(database: "Database", policy: "Policy") -> None:
    """Until nothing is left to go. A download of what goes breaks off."""
    from service.store import garbage, retention

    while retention.apply(database, policy, seconds=ROUND_SECONDS):
        pass
    while garbage.collect(database, seconds=ROUND_SECONDS):
        pass
