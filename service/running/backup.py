"""Backup and restore of what Numeral keeps, which is one SQLite database.

A backup is a folder: the database as of one moment, taken by SQLite's own backup while the service goes on, and a
manifest that says which Numeral made it, when, and the SHA-256 of what it holds. It is complete when it has its name:
what is under way ends in `.partial`. Datasets are fetched again, and keys are in the database as digests; a PostgreSQL
has tools of its own, which know how to do this better than we would."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import func, select

from service.errors import Conflict, Invalid, ServiceError
from service.settings import Settings
from service.store import schema, tables
from service.store.database import Database, sqlite_driver

FILE, MANIFEST = "numeral.db", "manifest.json"
PIECE = 1024**2


class DamagedBackup(ServiceError):
    status, code, title = 500, "damaged_backup", "The backup is not what was written"


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself."""

    numeral: str
    schema: str
    made_at: str  # RFC 3339, UTC
    sha256: str  # of the database file
    bytes: int
    rows: dict[str, int]  # of what people count: jobs, models, checkpoints, batches


def backup(settings: Settings, folder: Path) -> Manifest:
    """Back up to a folder that is not there yet, while the service runs or not. Raises Conflict where there is
    something already, or the database is a PostgreSQL, and DamagedBackup if what was written does not hold."""
    source = _sqlite_file(settings)
    if not source.is_file():
        raise Conflict(
            f"there is no database at {source}: set NUMERAL_HOME to the folder that has it",
            code="nothing_there",
        )
    with _made(folder) as partial:
        _copy(source, partial / FILE)
        _require_whole(partial / FILE)
        manifest = _describe(partial / FILE)
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    return manifest


def restore(settings: Settings, folder: Path) -> Manifest:
    """Put a backup where the settings have the database, which must not be there. Jobs that ran when it was taken go on
    from their checkpoints. Raises DamagedBackup, and Conflict where a database is, or the backup is of a newer
    Numeral."""
    target = _sqlite_file(settings)
    manifest = read(folder)
    if target.exists():
        raise Conflict(
            f"{target} is there already, and nothing is written over: move it away, or set NUMERAL_HOME to another folder",
            code="database_exists",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.copyfile(folder / FILE, partial)
    _require_unchanged(partial, manifest)
    _require_whole(partial)
    for left in ("-wal", "-shm"):  # of a database that is gone: SQLite would take them for this one's
        target.with_name(target.name + left).unlink(missing_ok=True)
    partial.rename(target)
    db = Database(f"sqlite:///{target}")
    try:
        schema.migrate(db)  # a backup of an older Numeral is brought up to date
    finally:
        db.close()
    return manifest


def read(folder: Path) -> Manifest:
    """The manifest of a backup whose file is as it was written. Raises Invalid if it is no backup, DamagedBackup."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(f"{folder} is no backup: {error}", code="no_backup") from None
    _require_unchanged(folder / FILE, manifest)
    return manifest


def _sqlite_file(settings: Settings) -> Path:
    db = Database(settings.database)
    db.close()
    if not db.is_sqlite or db.url.database is None:
        raise Conflict(
            "the database is a PostgreSQL: `pg_dump --format=custom` backs it up while it runs, `pg_restore` brings it "
            "back; docs/deployment.md has both as they are to be called",
            code="not_sqlite",
        )
    return Path(db.url.database)


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A folder that has its name once all is in it; of what fails nothing stays."""
    partial = folder.with_name(f"{folder.name}.partial")
    if folder.exists():
        raise Conflict(f"{folder} is there already: name a folder that is not", code="folder_exists")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise ServiceError(f"cannot back up to {folder}: {error}", code="backup_failed") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """In one step, which reads one snapshot: writers go on beside it, and none of them makes it begin anew."""
    driver = sqlite_driver()
    with (
        closing(driver.connect(f"file:{source}?mode=ro", uri=True)) as here,
        closing(driver.connect(target)) as there,
    ):
        here.backup(there)
        there.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it


def _require_whole(file: Path) -> None:
    """Pages, indexes and references. Raises DamagedBackup."""
    driver = sqlite_driver()
    try:
        with closing(driver.connect(file)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            loose = connection.execute("PRAGMA foreign_key_check").fetchall()
    except driver.DatabaseError as error:
        raise DamagedBackup(f"{file}: {error}") from error
    if found != ["ok"] or loose:
        raise DamagedBackup(f"{file}: {'; '.join(found)}; {len(loose)} references lead nowhere")


def _describe(file: Path) -> Manifest:
    counted = (tables.job, tables.model, tables.checkpoint, tables.batch)
    db = Database(f"sqlite:///{file}")
    try:
        made = schema.version(db)
        with db.read() as connection:
            rows = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in counted
            }
    finally:
        db.close()
    with closing(sqlite_driver().connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # reading has put its log beside it
    moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Manifest(version("numeral"), str(made), moment, _sha256(file), file.stat().st_size, rows)


def _require_unchanged(file: Path, manifest: Manifest) -> None:
    if not file.is_file() or (file.stat().st_size, _sha256(file)) != (manifest.bytes, manifest.sha256):
        raise DamagedBackup(f"{file} is not what its manifest says was written: take another backup")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
