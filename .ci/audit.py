"""Known vulnerabilities of what constraints.txt pins, by pip-audit, which asks OSV, or PyPI where that does not answer.

python .ci/audit.py             exit 1 if one is found; where nobody could be asked, warn and go on
python .ci/audit.py --strict    exit 1 then too
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
SERVICES = ("osv", "pypi")
SECONDS = 300


class NotAsked(Exception):
    """An advisory service did not answer."""


def audited(service: str, requirements: str) -> list[dict[str, Any]]:
    """What a service says of each pinned version. Raises NotAsked."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [
            *(sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"),
            *(
                "--vulnerability-service",
                service,
                "--format",
                "json",
                "--progress-spinner",
                "off",
                "--timeout",
                "10",
            ),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise NotAsked(f"no answer within {SECONDS} seconds") from None
    try:
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise NotAsked((done.stderr.strip().splitlines() or ["it said nothing"])[-1]) from None
    if all("skip_reason" in one for one in told):
        raise NotAsked(told[0]["skip_reason"] if told else "nothing was looked up")
    return told


def looked_up(service: str) -> list[str]:
    """What is known of all that is pinned, a sentence each. Raises NotAsked."""
    requirements = CONSTRAINTS.read_text()
    audited(service, requirements.splitlines()[0])  # all of them take a minute to fail
    told = audited(service, requirements)
    skipped = [one["name"] for one in told if "skip_reason" in one]
    if skipped:
        print(f"WARNING: {service} does not know {', '.join(skipped)}")
    return [_sentence(one, each) for one in told for each in one.get("vulns", ())]


def _sentence(one: dict[str, Any], found: dict[str, Any]) -> str:
    remedy = ", ".join(found["fix_versions"]) or "no version yet"
    return f"{one['name']} {one['version']}: {found['id']}, mended in {remedy}"


def main() -> int:
    failures = []
    for service in SERVICES:
        try:
            found = looked_up(service)
        except NotAsked as error:
            failures.append(f"{service}: {error}")
        else:
            print("\n".join(found) or f"no known vulnerability in what is pinned, says {service}")
            return 1 if found else 0
    print(f"WARNING: could not look up whether what is pinned is vulnerable ({'; '.join(failures)})")
    return 1 if "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
