"""A job's progress as a person sees it."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from service import progress
from service.client import Event


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        {"code": "report_failed", "detail": "RuntimeError: no room for figures"},
        {"message": "RuntimeError: no room for figures"},
    ],
)
def test_a_warning_is_shown(data: dict[str, Any], terminal: bool) -> None:
    said = io.StringIO()
    happened = [Event(seq=1, type="warning", data=data)]
    client: Any = SimpleNamespace(jobs=SimpleNamespace(events=lambda _: happened, get=lambda _: None))
    progress.follow(client, "job_0", Console(file=said, force_terminal=terminal, width=80))
    assert "warning: RuntimeError: no room for figures" in said.getvalue()
