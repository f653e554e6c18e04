"""What the files describe, as processes of this machine: each service's own command, environment, user, health check,
order and stop signal. What is the engine's alone is left out: namespaces, limits, a read-only root."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import psutil
import pytest

from tests.acceptance.conftest import free_port
from tests.conftest import missing, mnist_folder
from tests.deploy.files import ROOT, Composed, Service

BIN = Path(sys.executable).parent
HOME = "/var/lib/numeral"
START_SECONDS = 240.0  # of a worker, which imports torch, on a busy machine
BRIEF: dict[str, Any] = {  # a step is a millisecond or two, and a checkpoint is never far
    "dataset": {"examples": 5_000},
    "network": {"hidden_widths": [16]},
    "batch_size": 100,
    "epochs": 4,
    "precision": "float32",
    "evaluation": {"every_epochs": 10},
    "checkpoints": {"every_epochs": None, "every_steps": 100, "min_seconds": 0},
}


@dataclass
class Deployment:
    """The services of a compose file. A container's folders are below `folder`, addresses within its network are
    those of `hosts`, and the host's variables are filled in already; all else is as the files have it."""

    composed: Composed
    folder: Path
    hosts: Mapping[str, str]  # an address as the file has it -> one of this machine
    within: Sequence[str] = ()  # a command that becomes each of ours
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def url(self, name: str = "api") -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, name: str, **changes: str) -> None:
        """A container `service` or `service-2`."""
        self.ports.setdefault(name, free_port())
        service = self.service(name)
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(service, service.command),
                env=self._environment(name) | changes,
                user=self._user(service),
                group=self._user(service),
                extra_groups=[] if self._user(service) else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def service(self, name: str) -> Service:
        services = self.composed.services
        return services[name] if name in services else services[name.rpartition("-")[0]]

    def _command(self, service: Service, words: list[str]) -> list[str]:
        program, *rest = (self._placed(word) for word in words)
        if service.is_ours:
            found = sys.executable if program == "python" else str(BIN / program)
            return [*self.within, found, *rest]
        assert service.name == "redis", "the one other service that a test starts from the file"
        port = self.hosts["redis:6379"].rpartition(":")[2]
        if program == "redis-cli":
            return [program, "-p", port, *rest]
        return [program, *rest, "--port", port, "--bind", "127.0.0.1", "--dir", str(self.folder)]

    def _environment(self, name: str) -> dict[str, str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("NUMERAL_")}
        service = self.service(name)
        if not service.is_ours:
            return plain
        plain |= {key: self._placed(value) for key, value in service.environment.items() if key != "PATH"}
        plain |= {"NUMERAL_PORT": str(self.ports[name]), "NUMERAL_DATA_DIR": str(mnist_folder())}
        plain |= {"NUMERAL_THREADS": "1"}  # so that one process more or less changes no sum
        plain |= {"PYTHONPATH": str(ROOT)}  # the code is that of this checkout
        plain |= {"HOME": str(self.home), "MPLCONFIGDIR": str(self.folder / "tmp")}
        if plain.get("NUMERAL_HOST"):
            plain["NUMERAL_HOST"] = "127.0.0.1"
        return plain

    def _placed(self, text: str) -> str:
        """A word of the file, with its paths and addresses those of this machine."""
        places = dict(self.hosts) | {HOME: str(self.home)}
        places |= {f"/run/secrets/{name}": secret["file"] for name, secret in self.composed.secrets.items()}
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)

    def _user(self, service: Service) -> int | None:
        """Its own where we may become it, which root may, else ours; and ours where a command has to become it."""
        own = service.is_ours and not self.within and may_become(service.user)
        return int(service.user.partition(":")[0]) if own else None

    def is_healthy(self, name: str) -> bool:
        """By the service's own health check, within its own time."""
        service = self.service(name)
        words, limit = service.health
        try:
            result = subprocess.run(
                self._command(service, words),
                env=self._environment(name),
                cwd=self.folder,
                timeout=limit,
                capture_output=True,
            )
        except subprocess.TimeoutExpired:
            return False
        return result.returncode == 0

    def await_healthy(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy(name):
            assert self.processes[name].poll() is None, self.said(name)
            assert time.monotonic() < deadline, f"{name} is not healthy: {self.said(name)}"
            time.sleep(0.2)

    def await_end(self, name: str, limit: float) -> int:
        try:
            return self.processes[name].wait(timeout=limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} does not end: {self.said(name)}")

    def start_in_order(self, *left_out: str) -> list[str]:
        """Start each service of no profile when what it depends on is as it wants it; returns those that keep
        running."""
        services = {
            name: service
            for name, service in self.composed.services.items()
            if not service.get("profiles") and name not in left_out
        }
        ending = {
            needed
            for service in services.values()
            for needed, how in service.needs.items()
            if how == "completed_successfully"
        }
        order = TopologicalSorter(
            {
                name: [needed for needed in service.needs if needed in services]
                for name, service in services.items()
            }
        )
        running = []
        for name in order.static_order():
            self.start(name)
            if name in ending:
                assert self.await_end(name, START_SECONDS) == 0, self.said(name)
            else:
                self.await_healthy(name)
                running.append(name)
        return running

    def stop(self, name: str) -> int:
        """As the engine does: the service's signal, then its grace. Returns the exit status."""
        service = self.service(name)
        self.processes[name].send_signal(signal.Signals[service.stop_signal])
        return self.await_end(name, service.grace_seconds)

    def said(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")[-2000:]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def has_torch(self, name: str) -> bool:
        """Whether the process has loaded torch. On Linux only."""
        return "libtorch" in Path(f"/proc/{self.processes[name].pid}/maps").read_text()

    def left_behind(self) -> list[psutil.Process]:
        """Processes, whatever they made of themselves, that still have this deployment's home."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("NUMERAL_HOME") == str(self.home)
        except psutil.Error:
            return False

    def close(self) -> None:
        """Whatever a failed test left."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for orphan in self.left_behind():
            orphan.kill()


@cache
def may_become(user: str) -> bool:
    """Whether we may run as that user, and it may read the code and the virtual environment."""
    number = int(user.partition(":")[0])
    try:
        ran = subprocess.run(
            [BIN / "numeral", "health", "--help"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            user=number,
            group=number,
            extra_groups=[],
            capture_output=True,
            cwd="/",
        )
    except PermissionError:
        return False
    return ran.returncode == 0


@contextmanager
def placed(composed: Composed, hosts: Mapping[str, str], within: Sequence[str] = ()) -> Iterator[Deployment]:
    """Nothing is started yet; at the end of the block nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="numeral-deploy-"))  # not below a folder that only root can enter
    (folder / "home").mkdir(mode=0o700)
    shutil.copytree(mpl.get_cachedir(), folder / "tmp")  # its list of fonts takes seconds to make
    owner = next(service.user for service in composed.services.values() if service.is_ours)
    for path in (folder, folder / "home", folder / "tmp"):
        if may_become(owner):
            shutil.chown(path, int(owner.partition(":")[0]), int(owner.partition(":")[2]))
    deployment = Deployment(composed, folder, hosts, within)
    try:
        yield deployment
    finally:
        deployment.close()
        shutil.rmtree(folder)


def require_redis() -> None:
    for program in ("redis-server", "redis-cli"):
        if shutil.which(program) is None:
            missing(program)
