"""A short one of what `bench/fuzz.py` does for long: a real process is asked what schemathesis thinks of, and says
nothing that its description does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.serving import free_port, running
from service.settings import Settings
from tests.fuzzing import Findings, fuzz
from tests.integration.conftest import serving

OF_KEYS = "^/v1/(keys|session|predict|batches)"  # what is another thing where nobody needs a key


@pytest.mark.parametrize(("auth", "paths"), [("on", ""), ("off", OF_KEYS)])
def test_every_answer_is_as_described(
    tmp_path: Path, broker_url: str, settings_for: Callable[..., Settings], auth: str, paths: str
) -> None:
    with serving(settings_for(tmp_path)) as live:
        live.model(7)
    port, file = free_port(), tmp_path / "admin.key"
    variables = {
        "NUMERAL_HOME": str(tmp_path), "NUMERAL_PORT": str(port), "NUMERAL_BROKER_URL": broker_url,
        "NUMERAL_AUTH": auth, "NUMERAL_ADMIN_KEY_FILE": str(file),
    }  # fmt: skip
    findings = Findings()
    with running(["service.cli", "serve"], f"http://127.0.0.1:{port}", "/livez", **variables) as url:
        key = file.read_text().strip() if auth == "on" else None
        fuzz(url, findings, seed=1, examples=1, phases=["fuzzing"], key=key, paths=paths)
    assert findings.wrong == {}
    assert len(findings.statuses) > (60 if auth == "on" else 10)  # operations, of which none was left out
