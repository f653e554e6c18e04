"""A backup is whole or is none, and goes nowhere where something is."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from service.errors import Conflict, Invalid
from service.running import backup
from service.running.backup import FILE, MANIFEST, DamagedBackup
from service.settings import Settings
from service.store import schema
from service.store.database import Database
from service.store.tables import counter


@pytest.fixture
def kept(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    db = Database(settings.database)
    schema.migrate(db)
    db.close()
    return settings


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "elsewhere")


@pytest.fixture
def writer(kept: Settings) -> Iterator[None]:
    """Writes two rows a transaction until the test is over."""
    over = threading.Event()

    def write() -> None:
        db = Database(kept.database)
        number = 0
        while not over.is_set():
            with db.write(durable=False) as connection:
                for half in "ab":
                    connection.execute(insert(counter).values(name=f"{number}{half}", value=number))
            number += 1
        db.close()

    thread = threading.Thread(target=write)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("writer")
def test_it_is_of_one_moment_while_others_write(kept: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    counts = []
    for number in range(5):
        made = backup.backup(kept, tmp_path / str(number))
        assert backup.read(tmp_path / str(number)) == made
        assert {path.name for path in (tmp_path / str(number)).iterdir()} == {FILE, MANIFEST}
        there = Settings(home=elsewhere.home / str(number))
        assert backup.restore(there, tmp_path / str(number)) == made
        db = Database(there.database)
        with db.read() as connection:
            counts.append(connection.execute(select(func.count()).select_from(counter)).scalar_one())
        db.close()
    assert all(count % 2 == 0 for count in counts), "half a transaction is in none"
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_nothing_is_written_over(kept: Settings, tmp_path: Path) -> None:
    backup.backup(kept, tmp_path / "one")
    with pytest.raises(Conflict, match="is there already"):
        backup.backup(kept, tmp_path / "one")
    with pytest.raises(Conflict, match="nothing is written over"):
        backup.restore(kept, tmp_path / "one")


def test_damage_is_found(kept: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    backup.backup(kept, tmp_path / "one")
    file = tmp_path / "one" / FILE
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedBackup):
        backup.restore(elsewhere, tmp_path / "one")
    file.unlink()
    with pytest.raises(DamagedBackup):
        backup.read(tmp_path / "one")
    with pytest.raises(Invalid, match="is no backup"):
        backup.restore(elsewhere, tmp_path)
    assert not Path(elsewhere.home / "numeral.db").exists()


def test_a_damaged_database_makes_no_backup(kept: Settings, tmp_path: Path) -> None:
    file = Path(kept.home / "numeral.db")
    data = bytearray(file.read_bytes())
    data[3 * 4096 : 4 * 4096] = b"\xff" * 4096
    file.write_bytes(data)
    with pytest.raises(DamagedBackup):
        backup.backup(kept, tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_an_older_backup_is_brought_up_to_date_and_a_newer_one_refused(
    kept: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    backup.backup(kept, tmp_path / "one")
    manifest = json.loads((tmp_path / "one" / MANIFEST).read_text())
    assert manifest["schema"] == schema.head()
    assert manifest["rows"] == {"job": 0, "model": 0, "checkpoint": 0, "batch": 0}
    db = Database(f"sqlite:///{tmp_path / 'one' / FILE}")
    with db.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    (tmp_path / "one" / MANIFEST).write_text(json.dumps(manifest | backup_of(tmp_path / "one" / FILE)))
    with pytest.raises(schema.SchemaTooNew):
        backup.restore(elsewhere, tmp_path / "one")


def backup_of(file: Path) -> dict[str, object]:
    return {"sha256": backup._sha256(file), "bytes": file.stat().st_size}


def test_of_a_postgresql_the_remedy_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql+psycopg://postgres@db.example/numeral")
    with pytest.raises(Conflict, match="pg_dump"):
        backup.backup(settings, tmp_path / "one")
