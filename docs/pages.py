"""Pages of the site that others are the source of: the README, and the reference of every call, made of the API's own
description. MkDocs calls the functions by their names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from service.api.app import create_app
from service.settings import Settings

README = Path(__file__).parent.parent / "README.md"
METHODS = ("get", "post", "put", "patch", "delete")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "readme.md", content=readme()))
    files.append(File.generated(config, "api.md", content=reference()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the README, which lies above the other pages in the repository and beside them here."""
    return markdown.replace("](../README.md", "](readme.md")


def readme() -> str:
    text = README.read_text().replace("](docs/", "](")
    text = re.sub(
        r"\[([^]]*)\]\(deploy/[^)]*\)", r"`\1`", text
    )  # which is in the repository, not on the site
    return text.replace("# Numeral\n", "# Tour, spec and settings\n", 1)


def reference() -> str:
    """A section a call, in the order of its paths."""
    described = create_app(Settings()).openapi()
    lines = ["# Every call", "", described["info"].get("description", ""), ""]
    lines += [
        "A running service has the same at `/docs`, with examples, and for programs at `/openapi.json`.",
        "",
    ]
    for path, methods in described["paths"].items():
        for method in METHODS:
            if method in methods:
                lines += _call(path, method, methods[method])
    return "\n".join(lines)


def _call(path: str, method: str, call: dict[str, Any]) -> Iterator[str]:
    yield f"## `{method.upper()} {path}`"
    yield ""
    yield f"**{call.get('summary', '')}.** {_plain(call.get('description', ''))}"
    yield ""
    if parameters := call.get("parameters"):
        yield "| parameter | in | |"
        yield "| --- | --- | --- |"
        for one in parameters:
            name = f"`{one['name']}`" + (" (needed)" if one.get("required") else "")
            yield f"| {name} | {one['in']} | {_plain(one.get('description', '')).replace('|', chr(92) + '|')} |"
        yield ""
    answers = (f"`{status}` {_plain(answer['description'])}" for status, answer in call["responses"].items())
    yield "Answers: " + "; ".join(answers) + "."
    yield ""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("<", "&lt;").strip()
