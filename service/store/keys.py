"""API keys: made, looked up, used, revoked; and what one key has asked for and keeps, against its quotas.

Of a key's text the database has its beginning, by which it is found, and a SHA-256. A revoked key stays as a row, so
that an old log line can still be read."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import Connection, case, func, insert, or_, select, update

from service.errors import Conflict, NotFound, TooManyRequests, Unauthenticated
from service.keys import Scope, Secret
from service.store.database import Database, insert_new, now
from service.store.tables import api_key, batch, checkpoint, dataset, job

USED_SECONDS = 60.0  # how exactly it is told when a key was last used: a write a request would be too much
QUOTA_RETRY_SECONDS = 30
_STATE = (
    (api_key.c.expires_at.is_not(None) & (api_key.c.expires_at <= now())).label("is_expired"),
    now().label("clock"),
)
_SELECT = select(*api_key.c, *_STATE)


@dataclass(frozen=True)
class Limits:
    """What one key may do; None leaves it to the settings."""

    max_queued_jobs: int | None = None
    max_stored_bytes: int | None = None
    requests_per_minute: int | None = None


@dataclass(frozen=True)
class Key:
    """A row of the table, without its digest."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    limits: Limits
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    revoked_at: float | None
    is_expired: bool
    clock: float  # when this was so

    @property
    def state(self) -> Literal["good", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.is_expired else "good"

    @property
    def is_freshly_used(self) -> bool:
        return self.last_used_at is not None and self.last_used_at >= self.clock - USED_SECONDS

    def may(self, *scopes: Scope) -> bool:
        """Whether any of these scopes is its own; admin is all of them."""
        return "admin" in self.scopes or not set(scopes).isdisjoint(self.scopes)


def _of(row: Any) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=cast("tuple[Scope, ...]", tuple(row.scopes.split(","))),
        limits=Limits(row.max_queued_jobs, row.max_stored_bytes, row.requests_per_minute),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        is_expired=bool(row.is_expired),
        clock=row.clock,
    )


def create(
    db: Database,
    secret: Secret,
    *,
    name: str,
    scopes: Sequence[Scope],
    expires_in: float | None = None,
    limits: Limits | None = None,
) -> Key:
    """Take a key in, good for so many seconds or, without them, until it is revoked."""
    with db.write() as connection:
        return _insert(connection, secret, name, scopes, expires_in, limits or Limits())


def _insert(
    connection: Connection,
    secret: Secret,
    name: str,
    scopes: Sequence[Scope],
    expires_in: float | None,
    limits: Limits,
) -> Key:
    values = {
        "id": secret.id,
        "name": name,
        "digest": secret.digest,
        "scopes": ",".join(sorted(set(scopes))),
        "max_queued_jobs": limits.max_queued_jobs,
        "max_stored_bytes": limits.max_stored_bytes,
        "requests_per_minute": limits.requests_per_minute,
        "created_at": now(),
        "expires_at": None if expires_in is None else now() + expires_in,
    }
    return _of(connection.execute(insert(api_key).values(values).returning(*api_key.c, *_STATE)).one())


def adopt(db: Database, secret: Secret, *, name: str) -> None:
    """Let the admin key of a file be good, and revoke those that the file held before, which have the same name.
    Raises Conflict if this key is there and is not good: it was revoked, and a start does not undo that."""
    with db.write() as connection:
        connection.execute(
            insert_new(connection, api_key).values(
                id=secret.id, name=name, digest=secret.digest, scopes="admin", created_at=now()
            )
        )
        found = connection.execute(_SELECT.where(api_key.c.id == secret.id)).one()
        if not hmac.compare_digest(found.digest, secret.digest) or _of(found).state != "good":
            raise Conflict(f"the key {secret.id} is revoked or expired")
        before = (api_key.c.name == name, api_key.c.id != secret.id, api_key.c.revoked_at.is_(None))
        connection.execute(update(api_key).where(*before).values(revoked_at=now()))


def verified(db: Database, secret: Secret) -> Key:
    """The key that this is the text of. Raises Unauthenticated, also if it is good no longer."""
    with db.read() as connection:
        row = connection.execute(_SELECT.where(api_key.c.id == secret.id)).first()
    if row is None or not hmac.compare_digest(row.digest, secret.digest):
        raise Unauthenticated("there is no such API key")
    found = _of(row)
    if found.state != "good":
        raise Unauthenticated(f"the API key {found.id} is {found.state}", code=f"api_key_{found.state}")
    return found


def note_use(db: Database, key_id: str) -> None:
    """Remember that a key is used now, if that was not noted within the last minute."""
    used = api_key.c.last_used_at
    stale = (api_key.c.id == key_id, or_(used.is_(None), used < now() - USED_SECONDS))
    with db.write(durable=False) as connection:
        connection.execute(update(api_key).where(*stale).values(last_used_at=now()))


def page(db: Database, *, limit: int, after: str | None = None) -> tuple[list[Key], bool]:
    """Keys by id, those of a greater one than `after`; and whether there are more."""
    query = _SELECT.order_by(api_key.c.id).limit(limit + 1)
    if after is not None:
        query = query.where(api_key.c.id > after)
    with db.read() as connection:
        found = [_of(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def get(db: Database, key_id: str) -> Key:
    """Raises NotFound."""
    with db.read() as connection:
        return _get(connection, key_id)


def _get(connection: Connection, key_id: str) -> Key:
    row = connection.execute(_SELECT.where(api_key.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"there is no API key {key_id!r}", code="api_key_not_found")
    return _of(row)


def revoke(db: Database, key_id: str) -> Key:
    """From now on nobody comes in with it; one that was revoked stays as it is. Raises NotFound."""
    with db.write() as connection:
        living = (api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
        connection.execute(update(api_key).where(*living).values(revoked_at=now()))
        return _get(connection, key_id)


def has_admin(db: Database) -> bool:
    """Whether some key can make others."""
    good = (api_key.c.revoked_at.is_(None), or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > now()))
    with db.read() as connection:
        rows = connection.execute(select(api_key.c.scopes).where(*good))
        return any("admin" in row.scopes.split(",") for row in rows)


@dataclass(frozen=True)
class Submitter:
    """The key that asks for jobs and batches, and its quotas; None is no limit."""

    key_id: str
    max_queued_jobs: int | None
    max_stored_bytes: int | None


def require_quota(connection: Connection, submitter: Submitter, count: int) -> None:
    """Raises TooManyRequests unless so many more jobs of the key may wait, Conflict if it has stored what it may."""
    key_id, waiting = submitter.key_id, submitter.max_queued_jobs
    _alone(connection, key_id)
    found = _queued(connection, key_id) if waiting is not None else 0
    if waiting is not None and found + count > waiting:
        raise TooManyRequests(
            f"{found:,} jobs of the API key {key_id} wait, and {count:,} more are over its limit of {waiting:,}: "
            "wait for some to begin, cancel some, or ask an admin for a key with a higher limit",
            retry_after=QUOTA_RETRY_SECONDS,
            code="queued_jobs_quota",
        )
    _require_room(connection, submitter, 1)


def require_room(connection: Connection, submitter: Submitter, size: int) -> None:
    """Raises Conflict unless the key may store so many bytes more."""
    _alone(connection, submitter.key_id)
    _require_room(connection, submitter, size)


def _alone(connection: Connection, key_id: str) -> None:
    """Submits of one key are counted one after another; SQLite's writers are alone as it is."""
    connection.execute(select(api_key.c.id).where(api_key.c.id == key_id).with_for_update())


def _require_room(connection: Connection, submitter: Submitter, size: int) -> None:
    key_id, limit = submitter.key_id, submitter.max_stored_bytes
    if limit is None:
        return
    kept = _stored(connection, key_id)
    if kept + size > limit:
        raise Conflict(
            f"checkpoints, batches and datasets of the API key {key_id} take {kept:,} bytes, its limit is {limit:,}: "
            "delete those that are not needed, keep fewer checkpoints, or ask an admin for a key with a higher limit",
            code="stored_bytes_quota",
        )


def _queued(connection: Connection, key_id: str) -> int:
    """Paused ones too: they need no new submit to go on."""
    waits = (job.c.key_id == key_id, job.c.state.in_(("queued", "paused")))
    count: int = connection.execute(select(func.count()).where(*waits)).scalar_one()
    return count


def _stored(connection: Connection, key_id: str) -> int:
    """Of checkpoints and datasets; and of batches, whose body is let go of when they end."""
    kept = checkpoint.c.weights_size + func.coalesce(checkpoint.c.state_size, 0)
    body = case((batch.c.body_blob.is_not(None), batch.c.body_size), else_=0)
    sums = (
        select(func.coalesce(func.sum(size), 0)).where(table.c.key_id == key_id)
        for table, size in (
            (checkpoint, kept),
            (batch, body + batch.c.results_size),
            (dataset, dataset.c.size),
        )
    )
    return sum(int(connection.execute(each).scalar_one()) for each in sums)
