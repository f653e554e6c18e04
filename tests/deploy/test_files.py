"""Dockerfile and compose files against the code and against what they promise. Whether Compose reads them so as it is
read here: their schema is the specification's own (`make check`)."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service import settings
from service.cli import app
from tests.deploy.files import (
    ROOT,
    STAGES,
    VARIABLE,
    Missing,
    Service,
    composed,
    image_of,
    interpolated,
    pairs,
    parse_dockerfile,
    seconds,
    written,
)

BIN = Path(sys.executable).parent
FILES = ("docker-compose.yml", "deploy/workers.yml")
KNOWN_SETTINGS = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
COMPOSE = composed()
SERVICES = COMPOSE.services
ELSEWHERE = {
    "NUMERAL_DATABASE_URL": "postgresql+psycopg://numeral@db.example/numeral",
    "NUMERAL_BROKER_URL": "redis://redis.example:6379/0",
}
WORKERS = composed("deploy/workers.yml", **ELSEWHERE)
EVERY = [
    pytest.param(service, id=f"{file}-{name}")
    for file, found in zip(FILES, (COMPOSE, WORKERS), strict=True)
    for name, service in found.services.items()
]
OURS = [parameter for parameter in EVERY if parameter.values[0].is_ours]  # type: ignore[union-attr]
TARGETS = ("api", "worker", "worker-cpu")
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


def ours_of(service: Service) -> dict[str, str]:
    return {name: value for name, value in service.environment.items() if name.startswith(settings.PREFIX)}


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


def test_variables_are_filled_in_as_compose_does() -> None:
    text = "${A}|${A:-b}|${A:+c}"
    assert interpolated(text, {}) == "|b|"
    assert interpolated(text, {"A": "a"}) == "a|a|c"
    assert interpolated({"x": ["${A:?say so}"]}, {"A": "a"}) == {"x": ["a"]}
    with pytest.raises(Missing, match="A: say so"):
        interpolated("${A:?say so}", {"A": ""})


@pytest.mark.parametrize("file", FILES)
def test_the_file_is_of_the_specification(file: str, tmp_path: Path) -> None:
    check = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    ran = subprocess.run([*check, ROOT / file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text((ROOT / file).read_text().replace("read_only:", "readonly:"))
    ran = subprocess.run([*check, broken], capture_output=True, text=True, check=False)
    assert "readonly" in ran.stdout, "a word that the specification has not is found"


def test_hadolint_finds_nothing() -> None:
    ran = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_images_are_pinned() -> None:
    bases = [stage.base for stage in STAGES.values() if stage.base not in STAGES]
    for base in [*bases, *(service["image"] for service in SERVICES.values() if not service.is_ours)]:
        assert re.search(r":v?\d+\.\d+", base), base


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_numeral_as_an_ordinary_user_without_a_shell(target: str) -> None:
    image = image_of(STAGES, target)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.entrypoint == ["numeral"]
    assert image.user == "10001:10001"
    assert image.stop_signal == "SIGTERM"
    assert image.health[0] in ("numeral", "python")
    assert image.environment["NUMERAL_HOME"] == "/var/lib/numeral"
    assert image.labels["org.opencontainers.image.version"] == version


@pytest.mark.parametrize("target", TARGETS)
def test_the_bill_of_materials_is_where_the_label_says(target: str) -> None:
    (build,) = (
        dict(instruction.flags)["from"]
        for instruction in STAGES[target].instructions
        if instruction.name == "COPY"
    )
    made = [item.value for item in STAGES[build].instructions if item.name == "RUN"]
    path = image_of(STAGES, target).labels["numeral.sbom"]
    assert "cyclonedx-py environment" in made[-1], "the last layer, so that all is in it"
    assert f"--output-file {path} /opt/numeral" in made[-1]


def test_what_each_image_installs() -> None:
    installs = {
        stage.name: instruction.value
        for stage in STAGES.values()
        for instruction in stage.instructions
        if "--requirements" in instruction.value
    }
    assert "--extra train" not in installs["api-build"]
    assert all("--extra otel" in command for command in installs.values())
    assert "--extra train" in installs["worker-build"]
    assert "--torch-backend" not in installs["worker-build"]
    assert "--extra train" in installs["worker-cpu-build"]
    assert "--torch-backend cpu" in installs["worker-cpu-build"]
    assert all("--constraints constraints.txt" in command for command in installs.values())
    assert dict(pairs(STAGES["build"].instructions[0].value))["UV_COMPILE_BYTECODE"] == "1"


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


@pytest.mark.parametrize("service", OURS)
def test_the_environment_is_one_that_the_settings_take(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(ours_of(service)) <= KNOWN_SETTINGS
    for variable, value in ours_of(service).items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    assert loaded.broker_url is not None
    told = (
        WORKERS if service.name in WORKERS.services and service is WORKERS.services[service.name] else COMPOSE
    )
    if told is COMPOSE:
        assert loaded.broker_url.get_secret_value() == "redis://redis:6379/0"
        assert loaded.database == "sqlite:////var/lib/numeral/numeral.db"
    else:
        assert loaded.database == ELSEWHERE["NUMERAL_DATABASE_URL"]


def test_what_the_host_may_set_is_told() -> None:
    variables = {found[1] for file in FILES for found in VARIABLE.finditer((ROOT / file).read_text())}
    told = (ROOT / "docs" / "deployment.md").read_text()
    for name in variables - KNOWN_SETTINGS:
        assert f"`{name}`" in told


@pytest.mark.parametrize("variable", ELSEWHERE)
def test_another_host_must_say_where_the_first_is(variable: str) -> None:
    with pytest.raises(Missing, match=variable):
        composed("deploy/workers.yml", **{**ELSEWHERE, variable: ""})


COMMANDS = sorted(
    {
        tuple(command)
        for parameter in OURS
        for service in parameter.values
        if isinstance(service, Service)
        for command in (service.command, service.health[0])
        if command and command[0] == "numeral"
    }
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_services_run_real_commands(command: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(app, [*command[1:], "--help"])
    assert ran.exit_code == 0, ran.output


def test_one_image_name_is_one_target() -> None:
    ours = [parameter.values[0] for parameter in OURS]
    targets = {(service["image"], service["build"]["target"]) for service in ours}  # type: ignore[index]
    assert len(targets) == len({image for image, _ in targets}) == len({target for _, target in targets})


def test_dependencies() -> None:
    needs = {"migrate": "completed_successfully", "redis": "healthy"}
    ours = ("api", "worker", "batch-worker", "worker-gpu")
    assert {name: service.needs for name, service in SERVICES.items()} == {
        "redis": {},
        "migrate": {"postgres": "healthy"},
        "postgres": {},
        "prometheus": {},
        "grafana": {"prometheus": "healthy"},
        **dict.fromkeys(ours, needs),
    }
    assert SERVICES["migrate"]["depends_on"]["postgres"]["required"] is False, "it has a profile"


def test_profiles() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert {name: found for name, found in profiles.items() if found} == {
        "worker-gpu": ["gpu"],
        "postgres": ["postgres"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


@pytest.mark.parametrize("service", EVERY)
def test_services_are_held_to_little(service: Service) -> None:
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.user not in ("", "0", "root")
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["pids"]
    assert "container_name" not in service.written, "so that there may be several"


@pytest.mark.parametrize("service", EVERY)
def test_services_start_again_stop_in_order_and_tell_their_health(service: Service) -> None:
    assert service["restart"] == ("no" if service.name == "migrate" else "unless-stopped")
    if service.name == "migrate":
        return
    assert service.health[0]
    if "worker" in service.name:
        assert service.grace_seconds > 30  # what the supervisor gives a worker


def test_everything_kept_is_on_a_volume() -> None:
    for service in SERVICES.values():
        if service.is_ours:
            assert service["volumes"] == [f"home:{service.environment['NUMERAL_HOME']}"]
    mounted = {entry.split(":")[0] for service in SERVICES.values() for entry in service.get("volumes", [])}
    assert {name for name in mounted if not name.startswith("./")} == set(COMPOSE.volumes)
    assert {name for name in mounted if name.startswith("./")} == {"./deploy/prometheus", "./deploy/grafana"}


def test_ports_are_published_on_this_machine_alone_unless_told() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published == {
        "api": ["127.0.0.1:8000:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert SERVICES["api"].environment["NUMERAL_HOST"] == "0.0.0.0"  # noqa: S104 - inside the container
    assert composed(PUBLISH="192.0.2.1:80").services["api"]["ports"] == ["192.0.2.1:80:8000"]


def test_a_key_is_needed_unless_somebody_says_otherwise() -> None:
    environment = SERVICES["api"].environment
    assert environment["NUMERAL_AUTH"] == "on"
    assert environment["NUMERAL_ADMIN_KEY_FILE"] == "/var/lib/numeral/admin.key"
    assert composed(NUMERAL_AUTH="off").services["api"].environment["NUMERAL_AUTH"] == "off"


def test_passwords_are_files() -> None:
    told = composed(
        POSTGRES_PASSWORD_FILE="./password",  # noqa: S106 - the file's name
        NUMERAL_DATABASE_URL="postgresql+psycopg://numeral@postgres/numeral",
    )
    inside = "/run/secrets/postgres_password"
    assert told.secrets["postgres_password"] == {"file": "./password"}
    for service in told.services.values():
        if service.is_ours or service.name == "postgres":
            assert "postgres_password" in service["secrets"]
    assert told.services["postgres"].environment["POSTGRES_PASSWORD_FILE"] == inside
    assert told.services["api"].environment["NUMERAL_DATABASE_PASSWORD_FILE"] == inside
    assert SERVICES["api"].environment["NUMERAL_DATABASE_PASSWORD_FILE"] == ""
    for file in FILES:
        assert not re.search(r"(?i)password:(?! *\{file)", json.dumps(written(file)))


@pytest.mark.parametrize("file", FILES)
def test_the_gpu_is_reserved_by_its_profile_alone(file: str) -> None:
    services: dict[str, Any] = (COMPOSE if file == FILES[0] else WORKERS).services  # type: ignore[assignment]
    reserving = [
        name for name, service in services.items() if "reservations" in service["deploy"]["resources"]
    ]
    assert reserving == ["worker-gpu"]
    gpu = services["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu.command == ["numeral", "worker", "--devices", "cuda"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_redis_keeps_nothing_and_drops_nothing() -> None:
    command = SERVICES["redis"].command
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--save"] == ""
    assert options["--appendonly"] == "no"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"]


def test_the_grace_is_longer_than_the_api_takes() -> None:
    from service.api.server import GRACE_SECONDS

    assert seconds(SERVICES["api"]["stop_grace_period"]) > 2 * GRACE_SECONDS
