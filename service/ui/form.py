"""The training form: every field of a spec, told from its JSON schema."""
from typing import Any


def form_of(schema: dict[str, Any]) -> dict[str, Any]:
    return schema
