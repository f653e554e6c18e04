"""Transactions: what readers and writers see of each other, what a caller is told when the database
cannot, and races that only one of several may win."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, text

from service.errors import Conflict, NotFound, ServiceError, Unavailable
from service.spec import TrainingSpec
from service.store import attempts, database, garbage, jobs, schema
from service.store.attempts import Attempt, Point
from service.store.database import Database, StorageFull, now
from service.store.events import change
from service.store.jobs import Job, JobLost
from service.store.tables import counter


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'numeral.db'}")
    schema.migrate(db)
    yield db
    db.close()


def put(connection: Connection, name: str, value: int = 0) -> None:
    connection.execute(insert(counter).values(name=name, value=value))


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(counter)).scalar_one()


def names(db: Database) -> list[str]:
    with db.read() as connection:
        return list(connection.execute(select(counter.c.name).order_by(counter.c.name)).scalars())


def test_a_reader_sees_one_moment_and_holds_nobody_up(db: Database) -> None:
    with db.read() as reader:
        assert count(reader) == 0
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write, db, "a").result(timeout=10)
        assert count(reader) == 0
    assert names(db) == ["a"]


def write(db: Database, name: str) -> None:
    with db.write() as connection:
        put(connection, name)


def test_a_write_that_fails_leaves_nothing(db: Database) -> None:
    def fail(durable: bool, error: Exception) -> None:
        with db.write(durable=durable) as connection:
            put(connection, "a")
            raise error

    for durable, error in ((True, KeyError()), (False, Conflict("no"))):
        with pytest.raises(type(error)):
            fail(durable, error)
    write(db, "c")
    assert names(db) == ["c"]


def test_a_write_is_as_durable_as_asked(db: Database) -> None:
    ask = "PRAGMA synchronous" if db.is_sqlite else "SHOW synchronous_commit"
    full, normal = (2, 1) if db.is_sqlite else ("on", "off")
    for durable in (True, False, False, True):
        with db.write(durable=durable) as connection:
            assert connection.execute(text(ask)).scalar_one() == (full if durable else normal)
            put(connection, f"{durable} {time.monotonic_ns()}")
    assert len(names(db)) == 4


def test_the_clock_is_that_of_the_database(db: Database) -> None:
    with db.read() as connection:
        before, here = connection.execute(select(now())).scalar_one(), time.time()
        time.sleep(0.01)
        after = connection.execute(select(now())).scalar_one()
    assert before == pytest.approx(here, abs=0.5)
    assert 0.005 < after - before < 5


def test_the_clock_needs_no_new_sqlite(sqlite: Database) -> None:
    query = str(select(now()).compile(sqlite.engine))
    with sqlite3.connect(":memory:") as old:
        value = old.execute(query).fetchone()[0]
    old.close()
    assert "subsec" not in query, "SQLite 3.42, and NULL without a word before it"
    assert value == pytest.approx(time.time(), abs=0.5)


def test_the_second_writer_waits_for_the_first(sqlite: Database) -> None:
    order = []

    def second() -> None:
        with sqlite.write() as connection:
            order.append(count(connection))

    with ThreadPoolExecutor(1) as pool:
        with sqlite.write() as connection:  # it has written nothing yet: BEGIN alone takes the lock
            waiting = pool.submit(second)
            time.sleep(0.1)
            put(connection, "a")
            order.append(-1)
        waiting.result(timeout=10)
    assert order == [-1, 1]


def test_read_modify_write_loses_nothing(sqlite: Database) -> None:
    with sqlite.write() as connection:
        put(connection, "n")

    def add(_: int) -> None:
        with sqlite.write(durable=False) as connection:
            value = connection.execute(select(counter.c.value)).scalar_one()
            connection.execute(counter.update().values(value=value + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    with sqlite.read() as connection:
        assert connection.execute(select(counter.c.value)).scalar_one() == 100


def test_a_locked_database_is_said_to_be_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    db = Database(f"sqlite:///{tmp_path / 'numeral.db'}")
    schema.migrate(db)
    with db.write() as connection:
        put(connection, "a")
        begun = time.monotonic()
        with pytest.raises(Unavailable) as refusal:
            write(db, "b")
        assert time.monotonic() - begun >= 0.1, "it tries twice"
    assert (refusal.value.status, refusal.value.code) == (503, "storage_busy")
    assert int(refusal.value.headers["Retry-After"]) > 0
    write(db, "c")
    assert names(db) == ["a", "c"]
    db.close()


def test_a_row_that_is_held_too_long_is_said_to_be_busy(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    db = Database(postgres_url)
    schema.migrate(db)
    write(db, "a")
    with db.write() as holder:
        holder.execute(select(counter).with_for_update())
        with pytest.raises(Unavailable) as refusal, db.write() as connection:
            connection.execute(select(counter).with_for_update())
    assert (refusal.value.code, "Retry-After" in refusal.value.headers) == ("storage_busy", True)
    db.close()


def test_a_process_that_stops_amid_a_transaction_holds_its_rows_no_longer(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_TIMEOUT_MS", 300)
    db = Database(postgres_url)
    schema.migrate(db)
    write(db, "a")
    with pytest.raises(Unavailable):
        stop_within(db)
    assert names(db) == ["a"]
    db.close()


def stop_within(db: Database) -> None:
    """Take the rows, and say nothing until another has got them."""
    with db.write() as stopped:
        stopped.execute(select(counter).with_for_update())
        with db.write() as connection:
            connection.execute(select(counter).with_for_update())
        put(stopped, "b")


def test_too_many_at_once_are_told_to_return(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite.engine.pool, "_timeout", 0.01)
    with ExitStack() as held:
        for _ in range(15):  # the pool's size and what may overflow it
            held.enter_context(sqlite.read())
        with pytest.raises(Unavailable) as refusal:
            held.enter_context(sqlite.read())
    assert refusal.value.code == "storage_busy"
    assert names(sqlite) == []


def test_a_full_disk_harms_nothing(sqlite: Database) -> None:
    write(sqlite, "a")
    limit_pages(sqlite, "SELECT page_count + 4 FROM pragma_page_count")
    rows = [{"name": f"long {index:027d}", "value": 0} for index in range(10_000)]
    with pytest.raises(StorageFull) as refusal, sqlite.write() as connection:
        connection.execute(insert(counter), rows)
    assert (refusal.value.status, refusal.value.code) == (507, "disk_full")
    assert names(sqlite) == ["a"]
    limit_pages(sqlite, "SELECT 1000000")
    write(sqlite, "b")
    assert names(sqlite) == ["a", "b"]
    with sqlite.read() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"


def limit_pages(db: Database, query: str) -> None:
    """On the pool's one connection, to which the limit belongs."""
    with db.read() as connection:
        pages = connection.execute(text(query)).scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def test_a_server_that_is_away_is_unavailable() -> None:
    db = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    for begin in (db.read, db.write):
        with pytest.raises(Unavailable) as refusal, begin():
            pass
        assert refusal.value.code == "storage_unavailable"
        assert refusal.value.headers["Retry-After"]


def test_other_mistakes_are_not_hidden(db: Database) -> None:
    write(db, "a")
    with pytest.raises(Exception, match=r"(?i)unique") as failure:
        write(db, "a")
    assert not isinstance(failure.value, ServiceError)


def test_sqlite_is_one_that_keeps_its_log_whole() -> None:
    pytest.importorskip("pysqlite3")
    version = tuple(map(int, database.sqlite_driver().sqlite_version.split(".")))
    assert not (3, 7) <= version <= (3, 51, 2)


def test_the_library_is_named(db: Database) -> None:
    assert db.describe().startswith(("SQLite 3.", "PostgreSQL "))


def test_without_a_pool_connections_are_closed(database_url: str) -> None:
    db = Database(database_url, pooled=False)
    schema.migrate(db)
    opened, closed = [], []
    event.listen(db.engine, "connect", lambda *_: opened.append(1))
    event.listen(db.engine, "close", lambda *_: closed.append(1))
    write(db, "a")
    with pytest.raises(KeyError), db.write():
        raise KeyError
    assert names(db) == ["a"]
    assert len(opened) == len(closed) == 3


def submit(db: Database) -> str:
    answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda job: {"id": job.id}, queue="cpu")
    return str(answer["id"])


def claim(db: Database, job_id: str) -> Attempt:
    job = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
    assert job is not None
    return Attempt(job_id, job.attempt)


def test_progress_of_a_job_long_gone_is_that_of_a_lost_one(db: Database) -> None:
    attempt = claim(db, submit(db))
    attempts.fail(db, attempt, code="x", detail="y", runtime=0)
    jobs.remove(db, attempt.job_id)
    garbage.collect(db)
    with pytest.raises(JobLost):
        attempts.write_progress(db, attempt, progress={}, points=[Point("loss", 1, 0.0, 1.0)])


class Intruder:
    """Lets another caller in after the first look that a transaction takes at a job."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=self._run, args=(act,))

    def _run(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (Conflict, JobLost, NotFound) as refusal:
            self.refusal = refusal

    def after(self, look: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*arguments: Any, **named: Any) -> Any:
            found = look(*arguments, **named)
            if self._thread.ident is None:
                self._thread.start()
                self._thread.join(0.2)  # it comes through now, or must wait for the transaction to end
            return found

        return looked

    def join(self) -> None:
        self._thread.join()


@pytest.mark.parametrize("asked", ["cancel", "pause"])
def test_what_is_asked_of_a_job_in_motion_is_not_refused(
    db: Database, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker hands the job back between the look at `queued` and the look at `running`."""
    attempt = claim(db, submit(db))
    intruder = Intruder(lambda: attempts.release(db, attempt, runtime=0))
    monkeypatch.setattr(jobs, "change", intruder.after(change))
    verb: Callable[[Database, str], tuple[Job, bool]] = {"cancel": jobs.cancel, "pause": jobs.pause}[asked]
    assert verb(db, attempt.job_id)[1]
    intruder.join()
    assert jobs.get(db, attempt.job_id).state == {"cancel": "cancelled", "pause": "paused"}[asked]


def test_a_job_handed_back_while_it_is_cancelled_is_not_lost(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes between the look at `cancelling` and the look at `running`."""
    attempt = claim(db, submit(db))
    intruder = Intruder(lambda: jobs.cancel(db, attempt.job_id))
    monkeypatch.setattr(attempts, "change", intruder.after(change))
    attempts.release(db, attempt, runtime=0)
    intruder.join()
    assert jobs.get(db, attempt.job_id).state == "cancelled"


def test_editing_a_job_that_is_deleted_meanwhile(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = claim(db, submit(db))
    attempts.fail(db, attempt, code="x", detail="y", runtime=0)
    intruder = Intruder(lambda: jobs.remove(db, attempt.job_id))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_get", intruder.after(jobs._get))
        jobs.edit(db, attempt.job_id, metadata={"a": "b"}, priority=None)
    intruder.join()
    with pytest.raises(NotFound):
        jobs.get(db, attempt.job_id)


def test_figures_that_come_at_once_are_all_kept(db: Database) -> None:
    attempt = claim(db, submit(db))

    def report(step: int) -> None:
        attempts.write_progress(
            db,
            attempt,
            progress={"step": step},
            points=[Point(f"m{step}", step, 0.0, 1.0)],
            figures=[{"step": step, "metrics": {f"m{step}": 1.0}}],
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(24)))
    assert jobs.get(db, attempt.job_id).metrics == {f"m{step}": 1.0 for step in range(24)}
