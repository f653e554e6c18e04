"""The audit of what is pinned, with a stand-in for pip-audit that answers as the real one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent.parent / ".ci" / "audit.py"
STAND_IN = """
import json, sys
service = sys.argv[sys.argv.index("--vulnerability-service") + 1]
with open(sys.argv[sys.argv.index("--requirement") + 1]) as file:
    pinned = [line.split("==")[0] for line in file if line.strip()]
answer = ANSWERS[service]
if answer is None:
    sys.exit("ConnectionError: no route to it")
print(json.dumps({"dependencies": [{"name": name, "version": "1", **answer} for name in pinned]}))
"""
SOUND: dict[str, object] = {"vulns": []}
VULNERABLE: dict[str, object] = {"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN: dict[str, object] = {"skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("osv", "pypi", "status", "strict", "said"),
    [
        (SOUND, VULNERABLE, 0, 0, "no known vulnerability in what is pinned, says osv"),
        (VULNERABLE, SOUND, 1, 1, "numpy 1: CVE-1, mended in 2"),
        (None, VULNERABLE, 1, 1, "numpy 1: CVE-1, mended in 2"),
        (None, SOUND, 0, 0, "says pypi"),
        (None, UNKNOWN, 0, 1, "WARNING: could not look up"),
        (None, None, 0, 1, "no route to it"),
    ],
)
def test_what_is_found_fails_and_what_cannot_be_asked_warns(
    tmp_path: Path,
    osv: dict[str, object] | None,
    pypi: dict[str, object] | None,
    status: int,
    strict: int,
    said: str,
) -> None:
    package = tmp_path / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"ANSWERS = {{'osv': {osv!r}, 'pypi': {pypi!r}}}\n{STAND_IN}")
    for words, expected in (([], status), (["--strict"], strict)):
        done = subprocess.run(
            [sys.executable, AUDIT, *words],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (expected, "")
        assert said in done.stdout
