"""Dockerfile and docker-compose.yml against the code: what they name exists, and each service's command,
environment, health check and stop signal work as processes of this machine, without a container engine."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from service import settings
from service.client import ApiError, Client
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KNOWN_SETTINGS = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
START_SECONDS = 120.0  # of a worker, which imports torch, on a busy machine
VARIABLE = r"\$\{(\w+)(?::-([^}]*))?\}"
TINY_JOB = {"dataset": {"name": "simulated", "examples": 20}, "batch_size": "full", "steps": 5}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, such as `COPY --from=build /a /b`."""

    name: str
    flags: tuple[tuple[str, str], ...]
    value: str


@dataclass
class Stage:
    """FROM `base` AS `name`, and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    """What a container of a stage starts with, inherited stages included. Empty: never said."""

    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    health: Sequence[str] = ()
    health_seconds: float = 30.0
    user: str = ""
    stop_signal: str = ""


def parse_dockerfile(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stage = stages[alias] = Stage(alias, base)
        else:
            flags, value = split_flags(rest)
            stage.instructions.append(Instruction(name, flags, value))
    return stages


def split_flags(rest: str) -> tuple[tuple[tuple[str, str], ...], str]:
    flags: list[tuple[str, str]] = []
    while found := re.match(r"\s*--([\w-]+)=(\S+)\s+", rest):
        flags.append((found[1], found[2]))
        rest = rest[found.end() :]
    return tuple(flags), rest.strip()


def pairs(value: str) -> dict[str, str]:
    """Of ENV and LABEL."""
    return dict(item.split("=", 1) for item in shlex.split(value))


def exec_form(value: str) -> list[str]:
    """Of CMD and its like; the shell form is no JSON list and raises."""
    command = json.loads(value)
    assert isinstance(command, list)
    assert all(isinstance(word, str) for word in command)
    return command


def image_of(stages: Mapping[str, Stage], name: str) -> Image:
    stage = stages[name]
    image = image_of(stages, stage.base) if stage.base in stages else Image()
    for instruction in stage.instructions:
        image = applied(image, instruction)
    return image


def applied(image: Image, instruction: Instruction) -> Image:
    value = instruction.value
    match instruction.name:
        case "ENV":
            return replace(image, environment={**image.environment, **pairs(value)})
        case "LABEL":
            return replace(image, labels={**image.labels, **pairs(value)})
        case "ENTRYPOINT":
            return replace(image, entrypoint=exec_form(value))
        case "CMD":
            return replace(image, command=exec_form(value))
        case "HEALTHCHECK":
            return replace(
                image,
                health=exec_form(value.removeprefix("CMD ")),
                health_seconds=seconds(dict(instruction.flags)["timeout"]),
            )
        case "USER":
            return replace(image, user=value)
        case "STOPSIGNAL":
            return replace(image, stop_signal=value)
    return image


def seconds(duration: str) -> float:
    """Of `90s`, `2m`."""
    found = re.fullmatch(r"(\d+)([sm])", duration)
    assert found is not None, duration
    return int(found[1]) * {"s": 1.0, "m": 60.0}[found[2]]


def interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    """`${NAME:-default}` replaced in every text of the parsed file, as Compose does."""
    if isinstance(node, dict):
        return {key: interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value, variables) for value in node]
    if isinstance(node, str):
        return re.sub(VARIABLE, lambda found: variables.get(found[1]) or found[2] or "", node)
    return node


STAGES = parse_dockerfile((ROOT / "Dockerfile").read_text())
WRITTEN = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE: dict[str, Any] = interpolated(WRITTEN, {})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
COPIES = [
    (stage.name, source)
    for stage in STAGES.values()
    for instruction in stage.instructions
    if instruction.name == "COPY" and "from" not in dict(instruction.flags)
    for source in instruction.value.split()[:-1]
]
MOUNTS = [
    (stage.name, options["source"])
    for stage in STAGES.values()
    for instruction in stage.instructions
    for flag, value in instruction.flags
    if flag == "mount" and "from" not in (options := pairs(value.replace(",", " "))) and "source" in options
]


def image_of_service(name: str) -> Image:
    return image_of(STAGES, SERVICES[name]["build"]["target"])


def environment_of(name: str) -> dict[str, str]:
    """What a container of the service has of ours: the image's, and the service's over it."""
    ours = {
        key: value for key, value in image_of_service(name).environment.items() if key.startswith("NUMERAL_")
    }
    environment: dict[str, str] = SERVICES[name]["environment"]
    return ours | environment


def test_the_parser_joins_lines_and_follows_stages() -> None:
    text = """
        FROM python:3 AS first
        ENV A=1 \\
            # a comment between
            B="two words"
        ENTRYPOINT ["numeral"]
        FROM first AS second
        ENV A=3
        HEALTHCHECK --interval=5s --timeout=2m CMD ["python", "-c", "\\
        print(1)"]
        CMD ["serve"]
    """
    image = image_of(parse_dockerfile(text), "second")
    assert image.environment == {"A": "3", "B": "two words"}
    assert (image.entrypoint, image.command, image.health_seconds) == (["numeral"], ["serve"], 120)
    assert shlex.join(image.health).split() == ["python", "-c", "'", "print(1)'"]
    with pytest.raises(ValueError, match="Expecting value"):
        image_of(parse_dockerfile("FROM python:3 AS shell\nCMD numeral serve"), "shell")


def test_base_images_are_pinned() -> None:
    bases = [stage.base for stage in STAGES.values() if stage.base not in STAGES]
    for base in [*bases, *(service["image"] for name, service in SERVICES.items() if name not in OURS)]:
        assert re.search(r":\d+\.\d+", base), base


@pytest.mark.parametrize("target", ["api", "worker"])
def test_images_run_numeral_as_an_ordinary_user(target: str) -> None:
    image = image_of(STAGES, target)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.entrypoint == ["numeral"]
    assert image.user == "10001:10001"
    assert image.stop_signal == "SIGTERM"
    assert image.health[0] == "python"
    assert image.environment["NUMERAL_HOME"] == "/var/lib/numeral"
    assert image.labels["org.opencontainers.image.version"] == version


def test_only_the_worker_has_torch() -> None:
    installs = {
        stage.name: instruction.value
        for stage in STAGES.values()
        for instruction in stage.instructions
        if "--requirements" in instruction.value
    }
    sources = {
        stage.name: dict(instruction.flags).get("from")
        for stage in STAGES.values()
        for instruction in stage.instructions
        if instruction.name == "COPY"
    }
    assert "--extra train" in installs[str(sources["worker"])]
    assert "--extra" not in installs[str(sources["api"])]
    assert all("--constraints constraints.txt" in command for command in installs.values())


@pytest.mark.parametrize(("stage", "path"), [*COPIES, *MOUNTS])
def test_paths_that_the_build_takes_exist_and_are_sent(stage: str, path: str) -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert (ROOT / path).exists()
    assert "*" in sent
    assert f"!{path}" in sent


def test_every_package_is_in_the_image() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = pyproject["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= {path for _, path in COPIES}


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_one_that_the_settings_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(environment_of(name)) <= KNOWN_SETTINGS
    for variable, value in environment_of(name).items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    assert loaded.broker_url is not None
    assert loaded.broker_url.get_secret_value() == "redis://redis:6379/0"
    assert loaded.database == "sqlite:////var/lib/numeral/numeral.db"


def test_what_the_host_may_set_is_a_setting() -> None:
    variables = {name for name, _ in re.findall(VARIABLE, (ROOT / "docker-compose.yml").read_text())}
    assert variables <= KNOWN_SETTINGS | {"PUBLISH"}


@pytest.mark.parametrize("name", OURS)
def test_services_run_real_commands_of_images_that_exist(name: str) -> None:
    service = SERVICES[name]
    assert service["build"]["context"] == "."
    image = image_of_service(name)
    for command in (image.command, service["command"]):
        subprocess.run([BIN / image.entrypoint[0], *command, "--help"], check=True, capture_output=True)


def test_one_image_name_is_one_target() -> None:
    targets = {(SERVICES[name]["image"], SERVICES[name]["build"]["target"]) for name in OURS}
    assert len(targets) == len({image for image, _ in targets}) == len({target for _, target in targets})


def test_dependencies() -> None:
    graph = {
        name: {
            needed: how["condition"].removeprefix("service_")
            for needed, how in service.get("depends_on", {}).items()
        }
        for name, service in SERVICES.items()
    }
    needs = {"migrate": "completed_successfully", "redis": "healthy"}
    ours = ("api", "worker", "batch-worker", "worker-gpu")
    assert graph == {"redis": {}, "migrate": {}, **dict.fromkeys(ours, needs)}


@pytest.mark.parametrize("name", SERVICES)
def test_services_start_again_and_stop_in_order(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    if "worker" in name:
        assert seconds(service["stop_grace_period"]) > 30  # what the supervisor gives a worker


def test_everything_kept_is_on_one_volume() -> None:
    for name in OURS:
        home = environment_of(name)["NUMERAL_HOME"]
        assert SERVICES[name]["volumes"] == [f"home:{home}"]
    assert set(COMPOSE["volumes"]) == {"home"}


def test_the_port_is_published_on_this_machine_alone_unless_told() -> None:
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert environment_of("api")["NUMERAL_HOST"] == "0.0.0.0"  # noqa: S104 - inside the container
    assert not any("ports" in service for name, service in SERVICES.items() if name != "api")
    told = interpolated(WRITTEN, {"PUBLISH": "192.0.2.1:80"})
    assert told["services"]["api"]["ports"] == ["192.0.2.1:80:8000"]


def test_a_key_is_needed_unless_somebody_says_otherwise() -> None:
    environment = environment_of("api")
    assert environment["NUMERAL_AUTH"] == "on"
    assert environment["NUMERAL_ADMIN_KEY_FILE"] == "/var/lib/numeral/admin.key"
    told = interpolated(WRITTEN, {"NUMERAL_AUTH": "off"})
    assert told["services"]["api"]["environment"]["NUMERAL_AUTH"] == "off"


def test_the_gpu_is_reserved_by_its_profile_alone() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-gpu"]
    gpu = SERVICES["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["NUMERAL_DEVICE"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_redis_keeps_nothing_and_drops_nothing() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--save"] == ""
    assert options["--appendonly"] == "no"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"]


@dataclass
class Deployment:
    """The services as processes of this machine: their folder is a temporary one, their ports are free
    ones, and every host is this one. All else is as the two files have it."""

    folder: Path
    redis_port: int
    api_port: int
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, name: str, **changes: str) -> None:
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name),
                env=self._environment(name) | changes,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(self, name: str) -> list[str]:
        command: list[str] = SERVICES[name]["command"]
        if name == "redis":
            return [
                *command,
                "--port",
                str(self.redis_port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self.folder),
            ]
        (entrypoint,) = image_of_service(name).entrypoint
        return [str(BIN / entrypoint), *command]

    def _environment(self, name: str) -> dict[str, str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("NUMERAL_")}
        if name == "redis":
            return plain
        ours = environment_of(name) | {"NUMERAL_HOME": str(self.home), "NUMERAL_PORT": str(self.api_port)}
        ours["NUMERAL_BROKER_URL"] = ours["NUMERAL_BROKER_URL"].replace(
            "redis:6379", f"127.0.0.1:{self.redis_port}"
        )
        if "NUMERAL_HOST" in ours:
            ours["NUMERAL_HOST"] = "127.0.0.1"
        if "NUMERAL_ADMIN_KEY_FILE" in ours:
            folder, _, file = ours["NUMERAL_ADMIN_KEY_FILE"].rpartition("/")
            assert folder == environment_of(name)["NUMERAL_HOME"]  # which is on the volume
            ours["NUMERAL_ADMIN_KEY_FILE"] = str(self.home / file)
        return plain | ours

    def is_healthy(self, name: str) -> bool:
        """By the service's own health check, within its own time."""
        command, limit = self._health(name)
        try:
            result = subprocess.run(
                command, env=self._environment(name), cwd=self.folder, timeout=limit, capture_output=True
            )
        except subprocess.TimeoutExpired:
            return False
        return result.returncode == 0

    def _health(self, name: str) -> tuple[list[str], float]:
        if name == "redis":
            check = SERVICES[name]["healthcheck"]
            form, program, *rest = check["test"]
            assert form == "CMD"
            return [program, "-p", str(self.redis_port), *rest], seconds(check["timeout"])
        image = image_of_service(name)
        return [sys.executable, *image.health[1:]], image.health_seconds

    def await_healthy(self, name: str) -> None:
        def healthy() -> bool:
            assert self.processes[name].poll() is None, self.said(name)
            return self.is_healthy(name)

        eventually(healthy, START_SECONDS, lambda: f"{name} is not healthy: {self.said(name)}")

    def await_end(self, name: str, limit: float) -> int:
        try:
            return self.processes[name].wait(timeout=limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} does not end: {self.said(name)}")

    def stop(self, name: str) -> int:
        """As the engine does: the image's signal, then the grace period. Returns the exit status."""
        wanted = "SIGTERM" if name == "redis" else image_of_service(name).stop_signal
        self.processes[name].send_signal(signal.Signals[wanted])
        return self.await_end(name, seconds(SERVICES[name]["stop_grace_period"]))

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


def eventually(condition: Callable[[], bool], limit: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() >= deadline:
            pytest.fail(complaint())
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, free_port(), free_port())
    yield deployment
    deployment.close()


@pytest.fixture
def redis_server() -> None:
    for program in ("redis-server", "redis-cli"):
        if shutil.which(program) is None:
            missing(program)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_what_does_not_run_is_not_healthy(name: str, deployment: Deployment) -> None:
    assert not deployment.is_healthy(name)


def test_a_gpu_worker_without_a_gpu_says_so(deployment: Deployment) -> None:
    deployment.start("worker-gpu", CUDA_VISIBLE_DEVICES="")
    assert deployment.await_end("worker-gpu", START_SECONDS) == 1
    assert "NUMERAL_DEVICE" in deployment.said("worker-gpu")


@pytest.mark.usefixtures("redis_server")
def test_the_deployment_trains_and_leaves_nothing_behind(deployment: Deployment) -> None:
    running = start_in_order(deployment)
    assert set(running) == {"redis", "api", "worker", "batch-worker"}

    url = f"http://127.0.0.1:{deployment.api_port}"
    with Client(url) as nobody, pytest.raises(ApiError, match="send an API key"):
        nobody.jobs.list()
    with Client(url, api_key=(deployment.home / "admin.key").read_text()) as client:
        job = client.jobs.create(TINY_JOB)
        eventually(lambda: client.jobs.get(job.id).ended, 60, lambda: deployment.said("worker"))
        assert client.jobs.get(job.id).state == "succeeded"
        eventually(lambda: served(client) == {"cpu", "batch"}, 60, lambda: deployment.said("batch-worker"))
    if sys.platform == "linux":
        assert [name for name in running if deployment.has_torch(name)] == ["worker"]

    for name in reversed(running):
        assert deployment.stop(name) == 0, deployment.said(name)
        if name not in (
            "redis",
            "batch-worker",
        ):  # whose check sees the worker, which has a host of its own elsewhere
            assert not deployment.is_healthy(name)
    assert deployment.left_behind() == []


def served(client: Client) -> set[str]:
    """The queues that somebody takes messages of."""
    return {queue for worker in client.workers() for queue in worker.queues}


def start_in_order(deployment: Deployment) -> list[str]:
    """Start each service of no profile when what it depends on is as it wants it; returns those that keep
    running."""
    needs = {
        name: service.get("depends_on", {}) for name, service in SERVICES.items() if "profiles" not in service
    }
    ending = {
        needed
        for depends_on in needs.values()
        for needed, how in depends_on.items()
        if how["condition"] == "service_completed_successfully"
    }
    running = []
    for name in TopologicalSorter(needs).static_order():
        deployment.start(name)
        if name in ending:
            assert deployment.await_end(name, START_SECONDS) == 0, deployment.said(name)
        else:
            deployment.await_healthy(name)
            running.append(name)
    return running
