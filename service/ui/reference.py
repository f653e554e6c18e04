"""The API's description as a page."""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape


def chapters(description: Mapping[str, Any]) -> list[Any]:
    return []


def marked(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # it is escaped
