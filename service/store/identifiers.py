"""Identifiers that sort by the time they were made: a prefix and a UUID version 7 (RFC 9562)."""

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """Such as `job_019ab3...`: 32 hexadecimal digits, later ones greater."""
    return f"{prefix}_{uuid7().hex}"


def first_id_at(prefix: str, seconds: float) -> str:
    """The smallest identifier that can have been made at `seconds` since 1970."""
    return f"{prefix}_{int(seconds * 1000):012x}" + "0" * 20
