"""The API's description (OpenAPI) as a page: what a renderer from elsewhere would fetch, without a script."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Json = Mapping[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
MOST_EXAMPLE = 1200  # characters of an example that are shown
TITLES = {
    "health": "Health and status",
    "predictions": "Reading digits",
    "inference": "Open Inference Protocol",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a call."""

    name: str
    place: str
    kind: str
    required: bool
    help: str


@dataclass(frozen=True)
class Call:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    help: str
    parameters: tuple[Parameter, ...]
    bodies: tuple[str, ...]  # media types that it takes
    example: str
    answers: tuple[tuple[str, str], ...]  # status and what it means


@dataclass(frozen=True)
class Chapter:
    """Calls that belong together."""

    name: str
    title: str
    calls: tuple[Call, ...]


def chapters(description: Json) -> list[Chapter]:
    """The calls by their tag, in the order of the description."""
    found: dict[str, list[Call]] = {}
    for path, methods in description["paths"].items():
        for method in METHODS:
            if method in methods:
                call = methods[method]
                found.setdefault(call.get("tags", ["other"])[0], []).append(_call(method, path, call))
    return [Chapter(name, TITLES.get(name, name.capitalize()), tuple(calls)) for name, calls in found.items()]


def _call(method: str, path: str, call: Json) -> Call:
    content = call.get("requestBody", {}).get("content", {})
    return Call(
        call["operationId"],
        method.upper(),
        path,
        call.get("summary", ""),
        call.get("description", ""),
        tuple(_parameter(one) for one in call.get("parameters", ())),
        tuple(content),
        _example(content),
        tuple((status, answer.get("description", "")) for status, answer in call["responses"].items()),
    )


def _parameter(one: Json) -> Parameter:
    schema = one.get("schema", {})
    text = one.get("description") or schema.get("description", "")
    return Parameter(one["name"], one["in"], _kind(schema), one.get("required", False), text)


def _kind(schema: Json) -> str:
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    kinds = " or ".join(dict.fromkeys(_one_kind(part) for part in parts))
    default = schema.get("default")
    return kinds if default is None else f"{kinds}, {json.dumps(default)} if left out"


def _one_kind(schema: Json) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"{_kind(schema['items'])}, may be repeated"
    limits = [
        f"{sign} {schema[key]:g}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *limits])


def _example(content: Json) -> str:
    return next((_shortened(value) for value in _values(content)), "")


def _values(content: Json) -> Iterator[Any]:
    for media in content.values():
        yield from (one["value"] for one in media.get("examples", {}).values())
        if "example" in media:
            yield media["example"]


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2)
    return text if len(text) <= MOST_EXAMPLE else json.dumps(value)[:200] + " ..."


def marked(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped
