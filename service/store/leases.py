"""A worker's hold on a row for a while, whatever the row is: a job, a batch."""

from typing import Protocol

from sqlalchemy import Connection

from service.errors import ServiceError


class LeaseLost(ServiceError):
    """The row is no longer this attempt's: another worker holds it, it has ended, or it is gone."""

    status, code, title = 409, "lease_lost", "It belongs to another attempt"


class Held(Protocol):
    """One worker's hold on one row."""

    @property
    def held_id(self) -> str: ...

    def renew(self, connection: Connection, *, lease_seconds: float) -> None:
        """In a transaction that is open, which stays good. Raises LeaseLost."""
        ...
