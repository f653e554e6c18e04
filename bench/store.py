"""List and series pages of a database with 1,000 jobs and a million metric rows, against their times on
an almost empty one, taken in turns over HTTP in one run. Bound: median <= 2 x.

    python -m bench.store
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from service.spec import TrainingSpec
from service.store import attempts, jobs, schema
from service.store.attempts import Attempt, Point
from service.store.database import Database

JOBS = 1000
ROWS_A_JOB = 1000
ROUNDS = 100
BOUND = 2.0


def fill(home: Path, count: int) -> str:
    """A database with `count` finished jobs of a thousand metric rows; returns the id of one job."""
    db = Database(f"sqlite:///{home / 'numeral.db'}")
    schema.migrate(db)
    spec = TrainingSpec()
    made = ""
    for _ in range(count):
        answer, _new = jobs.submit(db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
        made = made or str(answer["id"])
        claimed = attempts.claim(db, answer["id"], worker="bench", device="cpu", lease_seconds=60)
        assert claimed is not None
        attempt = Attempt(claimed.id, claimed.attempt)
        names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
        points = [
            Point(name, step, step / 10, 0.5) for name in names for step in range(ROWS_A_JOB // len(names))
        ]
        progress = {"step": 250, "steps": 250}
        attempts.write_progress(db, attempt, progress=progress, points=points)
        attempts.fail(db, attempt, code="bench", detail="made for a benchmark", runtime=1.0)
    db.close()
    return made


def serve(home: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "NUMERAL_HOME": str(home),
        "NUMERAL_PORT": str(port),
        "NUMERAL_RECONCILE_SECONDS": "600",
        "NUMERAL_LOG_LEVEL": "error",
    }
    server = subprocess.Popen([sys.executable, "-m", "service.cli", "serve"], env=environment)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/livez", timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return server
    raise SystemExit("the API did not start")


def milliseconds(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    client.get(path).raise_for_status()
    return (time.perf_counter() - began) * 1000


def compare(small: tuple[httpx.Client, str], large: tuple[httpx.Client, str]) -> int:
    pages = {
        "list": "/v1/jobs?limit=20",
        "list, by state": "/v1/jobs?limit=20&state=failed",
        "series": "/v1/jobs/{job}/metrics",
        "series, thinned": "/v1/jobs/{job}/metrics?max_points=100",
        "events": "/v1/jobs/{job}/events",
    }
    worst = 0.0
    for name, path in pages.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for kept, (client, job) in zip(times, (small, large), strict=True):
                kept.append(milliseconds(client, path.format(job=job)))
        almost_empty, full = (statistics.median(kept) for kept in times)
        worst = max(worst, full / almost_empty)
        print(
            f"{name:16} almost empty {almost_empty:6.2f} ms   full {full:6.2f} ms   {full / almost_empty:.2f} x"
        )
    print(f"worst {worst:.2f} x (bound {BOUND})")
    return 0 if worst <= BOUND else 1


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / name for name in ("small", "large")]
        for home in homes:
            home.mkdir()
        # the small one holds as many jobs as a page shows, so that both pages are as long
        made = [fill(homes[0], 20), fill(homes[1], JOBS)]
        print(f"{JOBS:,} jobs, {JOBS * ROWS_A_JOB:,} metric rows", flush=True)
        servers = [serve(home, port) for home, port in zip(homes, (18471, 18472), strict=True)]
        try:
            with httpx.Client(base_url="http://127.0.0.1:18471") as small:  # noqa: SIM117
                with httpx.Client(base_url="http://127.0.0.1:18472") as large:
                    return compare((small, made[0]), (large, made[1]))
        finally:
            for server in servers:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    sys.exit(main())
