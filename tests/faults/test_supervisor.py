"""The supervisor killed: nothing of it stays, and what it was doing goes on."""

import time
from pathlib import Path

import psutil

from service.running import broker
from tests.acceptance.conftest import left_behind, running, until
from tests.acceptance.test_main_job import SMALL, hash_of
from tests.faults.ledger import Fault
from tests.faults.stack import QUICK


def test_a_supervisor_killed(tmp_path: Path, fault: Fault) -> None:
    """kill -9 of the supervisor"""
    with running(tmp_path, **QUICK) as service:  # type: ignore[arg-type]
        undisturbed = hash_of(service, SMALL)
        job = service.start(SMALL, at_step=300)
        count = len(psutil.Process(service.process.pid).children(recursive=True))
        service.process.kill()
        service.process.wait()
        killed_at = time.monotonic()
        until(lambda: not left_behind(tmp_path), "all that it had started has ended", 30)
        fault.fired(f"process {service.process.pid} gone")
        seconds = time.monotonic() - killed_at
    with running(tmp_path, **QUICK) as service:  # type: ignore[arg-type]  # neither its lock nor its socket is in the way
        job = service.client.jobs.wait(job.id)
    assert (job.state, job.weights_sha256) == ("succeeded", undisturbed)
    assert not broker.socket_path(tmp_path).exists()
    fault.came(f"its {count} processes ended within {seconds:.1f} s; started again, weights as undisturbed")
