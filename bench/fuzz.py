"""What a real server answers to requests that schemathesis makes of its own description (see `tests/fuzzing.py`): half
of them without keys, half where they are required, after a job, a sweep and a batch were done, so that there is
something to ask for. Nothing is trained meanwhile. Bounds: no answer of 500 or above, no status, header or body that
the description does not have, nothing accepted that it refuses.

    python -m bench.fuzz [--requests 20000] [--seed 0]
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

from bench.serving import free_port
from bench.serving import running as serving
from service.running import broker
from service.settings import Settings
from tests.acceptance.conftest import running
from tests.fuzzing import PHASES, Findings, fuzz

SPEC = {"network": {"hidden_widths": [16]}, "dataset": {"validation": 10_000}, "epochs": 1}
PIXELS = bytes(784) * 3
EXAMPLES = 50  # of an operation, in a round


def lived_in(home: Path) -> None:
    """Have one of each thing there is to ask for."""
    with running(home, NUMERAL_LOG_LEVEL="error") as service:
        client = service.client
        job = client.jobs.wait(client.jobs.create(SPEC).id)
        if job.state != "succeeded":
            raise SystemExit(f"{job.id} {job.state}: {job.error}")
        client.sweeps.wait(client.sweeps.create(SPEC, grid={"seed": [1, 2]}).id)
        client.batches.wait(client.batches.create(PIXELS, media_type="application/octet-stream").id)


def asked(home: Path, findings: Findings, requests: int, seed: int, *, with_key: bool) -> None:
    """So many requests more, in rounds whose seeds follow one another."""
    port, file = free_port(), home / "admin.key"
    variables = {
        "NUMERAL_HOME": str(home), "NUMERAL_PORT": str(port), "NUMERAL_LOG_LEVEL": "error",
        "NUMERAL_AUTH": "on" if with_key else "off", "NUMERAL_ADMIN_KEY_FILE": str(file),
    }  # fmt: skip
    enough = findings.requests + requests
    with serving(["service.cli", "serve"], f"http://127.0.0.1:{port}", "/livez", **variables) as url:
        key = file.read_text().strip() if with_key else None
        for round_ in itertools.count():
            began, before = time.monotonic(), findings.requests
            phases = PHASES if round_ == 0 else PHASES[2:]  # the first two always ask the same
            fuzz(url, findings, seed=seed + round_, examples=EXAMPLES, phases=phases, key=key)
            done = findings.requests - before
            kind = "with a key" if with_key else "without keys"
            print(
                f"{done:7,} requests {kind}, seed {seed + round_}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            if findings.requests >= enough:
                return


def measure(home: Path, requests: int, seed: int) -> int:
    findings = Findings()
    lived_in(home)
    valkey = broker.start(Settings(home=home))
    try:
        for with_key in (False, True):
            asked(home, findings, requests // 2, seed, with_key=with_key)
    finally:
        valkey.kill()
        valkey.wait()
    for operation, statuses in sorted(findings.statuses.items()):
        told = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
        print(f"{operation:55} {told}")
    for what, how in findings.wrong.items():
        print(f"WRONG {what}\n{how}")
    print(f"{findings.requests:,} requests; {len(findings.wrong)} kinds of answers that are wrong (bound 0)")
    return 1 if findings.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        return measure(Path(home), arguments.requests, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
