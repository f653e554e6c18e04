"""Dockerfile and compose files as an engine reads them: images with what they inherit, services with their variables
filled in."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-+?])([^}]*))?\}")


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


class Missing(Exception):
    """A variable that is a must has no value."""


def interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}`, `${NAME:+alternative}` and `${NAME:?complaint}` replaced in every text of the
    parsed file, as Compose does. Raises Missing."""
    if isinstance(node, dict):
        return {key: interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value, variables) for value in node]
    if isinstance(node, str):
        return VARIABLE.sub(lambda found: _value(variables.get(found[1], ""), found), node)
    return node


def _value(value: str, found: "re.Match[str]") -> str:
    operator, words = found[2], found[3] or ""
    if operator == ":?" and not value:
        raise Missing(f"{found[1]}: {words}")
    if operator == ":+":
        return words if value else ""
    return value or (words if operator == ":-" else "")


@dataclass(frozen=True)
class Service:
    """A service of a compose file, and the image that it runs."""

    name: str
    written: Mapping[str, Any]
    image: Image  # empty for another's image, of which the file says all that we need

    def __getitem__(self, key: str) -> Any:
        return self.written[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.written.get(key, default)

    @property
    def is_ours(self) -> bool:
        return "build" in self.written

    @property
    def environment(self) -> dict[str, str]:
        """Of its container: the image's, and the service's over it."""
        return {**self.image.environment, **self.written.get("environment", {})}

    @property
    def command(self) -> list[str]:
        return [*self.image.entrypoint, *self.written.get("command", self.image.command)]

    @property
    def health(self) -> tuple[list[str], float]:
        """The command that tells whether it is healthy, none for what only runs once; and the seconds it may take."""
        check = self.written.get("healthcheck")
        if check is None:
            return list(self.image.health), self.image.health_seconds
        if check.get("disable"):
            return [], 0.0
        form, *words = check["test"]
        assert form == "CMD", "which needs no shell"
        return words, seconds(check["timeout"])

    @property
    def user(self) -> str:
        return str(self.written.get("user", self.image.user))

    @property
    def stop_signal(self) -> str:
        return str(self.written.get("stop_signal", self.image.stop_signal or "SIGTERM"))

    @property
    def grace_seconds(self) -> float:
        return seconds(self.written.get("stop_grace_period", "10s"))

    @property
    def needs(self) -> dict[str, str]:
        """What is to be started before it, and to be how: `healthy`, `completed_successfully`."""
        return {
            name: how["condition"].removeprefix("service_")
            for name, how in self.written.get("depends_on", {}).items()
        }


@dataclass(frozen=True)
class Composed:
    """A compose file with the host's variables filled in."""

    services: Mapping[str, Service]
    volumes: Mapping[str, Any]
    secrets: Mapping[str, Any]


STAGES = parse_dockerfile((ROOT / "Dockerfile").read_text())


def written(file: str = "docker-compose.yml") -> dict[str, Any]:
    """The parsed file as it is."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return parsed


def composed(file: str = "docker-compose.yml", **variables: str) -> Composed:
    filled = interpolated(written(file), variables)
    services = {
        name: Service(
            name, service, image_of(STAGES, service["build"]["target"]) if "build" in service else Image()
        )
        for name, service in filled["services"].items()
    }
    return Composed(services, filled.get("volumes", {}), filled.get("secrets", {}))
