"""From POST to the first training step on an idle warm worker, against the round trip of a bare Celery
no-op on the same broker, taken in turns in one run. Bound: median <= 3 x.

    python -m bench.latency
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from celery import Celery

from service import settings
from service.client import Client, Job
from service.observing import logs
from service.running import broker
from service.running.supervisor import Supervisor

ROUNDS = 40
BOUND = 3.0
SPEC = {"network": {"hidden_widths": [32]}, "batch_size": 100, "steps": 20}


def noop_app(url: str) -> Celery:
    """The plainest use of Celery: its defaults, one prefork child, results in the same broker."""
    app = Celery("noop", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_default_queue="noop", worker_send_task_events=False)
    app.task(name="noop")(do_nothing)
    return app


def do_nothing() -> None:
    """The whole task."""


def first_step_ms(client: Client) -> float:
    """Milliseconds from just before the POST to the event of the first step; both clocks are this
    machine's."""
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"))
    connection.connect()
    began = time.time()
    connection.request("POST", "/v1/jobs", json.dumps(SPEC), {"Content-Type": "application/json"})
    job = Job.model_validate_json(connection.getresponse().read())
    connection.close()
    while not job.ended:  # seldom asked, so that asking takes no time from the first step
        time.sleep(0.3)
        job = client.jobs.get(job.id)
    if job.state != "succeeded":
        raise SystemExit(f"{job.id} {job.state}")
    events = client.call("GET", f"/v1/jobs/{job.id}/events", params={"limit": 100})["data"]
    told = next(event for event in events if event["type"] == "progress" and event["data"]["step"] >= 1)
    first = datetime.fromisoformat(told["time"]).timestamp()
    return (first - began) * 1000


def noop_ms(app: Celery) -> float:
    began = time.perf_counter()
    app.tasks["noop"].delay().get(timeout=30)
    return (time.perf_counter() - began) * 1000


def measure(home: Path) -> int:
    os.environ |= {"NUMERAL_HOME": str(home), "NUMERAL_PORT": "0"}
    loaded = settings.load()
    logs.configure(loaded, "bench")
    with Supervisor(loaded).running() as supervisor:
        supervisor.await_ready()
        url = broker.url(loaded)
        command = [sys.executable, "-m", "bench.latency", "worker", url]
        noop_worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            app = noop_app(url)
            with Client(supervisor.url, patience=60) as client:
                for _ in range(3):
                    first_step_ms(client), noop_ms(app)
                pairs = [(first_step_ms(client), noop_ms(app)) for _ in range(ROUNDS)]
        finally:
            noop_worker.terminate()
            noop_worker.wait()
    return report(pairs)


def report(pairs: list[tuple[float, float]]) -> int:
    ours, bare = ([pair[index] for pair in pairs] for index in (0, 1))
    for name, values in (("POST to first step", ours), ("bare Celery no-op", bare)):
        quartiles = statistics.quantiles(values, n=4)
        print(
            f"{name:20} median {quartiles[1]:7.1f} ms   quartiles {quartiles[0]:.1f} to {quartiles[2]:.1f} ms"
        )
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"ratio of medians {ratio:.2f} (bound {BOUND})")
    return 0 if ratio <= BOUND else 1


def main() -> int:
    if sys.argv[1:2] == ["worker"]:
        arguments = [
            "worker",
            "--concurrency",
            "1",
            "--queues",
            "noop",
            "--without-gossip",
            "--without-mingle",
        ]
        noop_app(sys.argv[2]).worker_main(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
