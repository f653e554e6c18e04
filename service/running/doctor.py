"""`numeral doctor`: what is wrong here, and what to do about it."""

import importlib.util
import platform
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from service import settings
from service.data.sources import DatasetUnavailable, fetch
from service.errors import ServiceError
from service.observing.redaction import redacted
from service.running import broker
from service.settings import Settings
from service.store import schema, workers
from service.store.database import Database, sqlite_driver

ROOM_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """`note` is worth knowing, `wrong` keeps something from working."""

    level: Literal["ok", "note", "wrong"]
    what: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; one thing that is wrong hides no other."""
    try:
        loaded = settings.load()
    except ServiceError as error:
        return [Finding("wrong", "settings", error.detail, "correct or unset the variable")]
    findings = [Finding("ok", "python", platform.python_version())]
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _home,
        _database,
        _broker,
        _training,
        _data,
        _port,
    )
    for check in checks:
        try:
            findings += check(loaded)
        except (ServiceError, OSError, SQLAlchemyError) as error:
            findings.append(Finding("wrong", check.__name__.strip("_"), redacted(str(error))))
    return findings


def _home(loaded: Settings) -> Iterator[Finding]:
    loaded.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(loaded.home).free
    found = f"{loaded.home}, {free / 1024**3:.1f} GiB free"
    if free < ROOM_BYTES:
        yield Finding("wrong", "home", found, "make room, or set NUMERAL_HOME to a larger disk")
    else:
        yield Finding("ok", "home", found)


def _database(loaded: Settings) -> Iterator[Finding]:
    database = Database(loaded.database)
    try:
        version = schema.version(database)
        level: Literal["ok", "note"] = "ok" if version == schema.head() else "note"
        remedy = "" if level == "ok" else "`numeral up` migrates, or run `numeral migrate`"
        yield Finding(level, "database", f"{database.describe()}, schema {version or 'none yet'}", remedy)
        if database.is_sqlite and sqlite_driver() is sqlite3 and sqlite3.sqlite_version_info < (3, 51, 3):
            yield Finding(
                "note",
                "sqlite",
                f"{sqlite3.sqlite_version} has the WAL-reset bug",
                "install pysqlite3 where it has a wheel, or use PostgreSQL",
            )
        if version == schema.head():
            alive = workers.alive(database)
            found = ", ".join(f"{worker.name} ({worker.device})" for worker in alive) or "none alive"
            yield Finding("ok" if alive else "note", "workers", found, "" if alive else "`numeral up`")
    finally:
        database.close()


def _broker(loaded: Settings) -> Iterator[Finding]:
    try:
        broker.check(loaded)
    except broker.BrokerError as error:
        embedded = loaded.broker_url is None
        remedy = "`numeral up` starts it" if embedded else "start it, or correct NUMERAL_BROKER_URL"
        yield Finding("note" if embedded else "wrong", "broker", error.detail, remedy)
    else:
        yield Finding("ok", "broker", "embedded" if loaded.broker_url is None else "answers")


def _training(_loaded: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            "note", "torch", "not installed: this machine can serve but not train", "numeral[train]"
        )
        return
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("ok", "torch", f"{torch.__version__}, {', '.join(gpus) or 'no GPU: trains on the CPU'}")


def _data(loaded: Settings) -> Iterator[Finding]:
    try:
        fetched = fetch("mnist", cache_dir=loaded.cache_dir, data_dir=loaded.data_dir)
    except DatasetUnavailable as error:
        yield Finding("wrong", "mnist", error.detail, "set NUMERAL_DATA_DIR to a folder with its IDX files")
    else:
        yield Finding("ok", "mnist", f"{fetched.folder} (from {fetched.source})")


def _port(loaded: Settings) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex((loaded.host, loaded.port)) == 0
    found = f"{loaded.host}:{loaded.port} " + ("is in use (by Numeral, perhaps)" if taken else "is free")
    yield Finding("ok", "port", found)
