"""Takes out of a text what nobody is to read in a log: passwords of URLs, and API keys but for their ids."""

import re

from service.keys import ID

HIDDEN = "***"
_SECRETS = (
    (re.compile(r"""\b([a-zA-Z][\w+.-]*://[^\s:/@'"]*):[^\s'"]*@"""), rf"\1:{HIDDEN}@"),  # to the last @
    (re.compile(r"""([?&](?:ssl)?passw(?:or)?d=)[^\s&'"]+"""), rf"\1{HIDDEN}"),
    (re.compile(rf"({ID}_)[A-Za-z0-9_-]{{8,}}"), rf"\1{HIDDEN}"),
)


def redacted(text: str) -> str:
    """The text without its secrets."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
