"""API keys as their holders have them: a text that names the key and proves that its holder may use it.

`num_k3xq7d2m_` and 43 characters of base64url, which are 256 random bits. The first twelve characters are the key's
id, which may be told; with that many random bits an unsalted SHA-256 of the whole is as safe to keep as a slow hash
of a password, and a thousand times as fast."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

Scope = Literal["read", "predict", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ID = "num_[a-z2-7]{8}"
_FORM = re.compile(rf"({ID})_[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True)
class Secret:
    """A key's whole text. It shows itself to nobody who does not ask for `text`."""

    text: str = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        name = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        return cls(f"num_{name}_{secrets.token_urlsafe(32)}")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what no key looks like."""
        return cls(text) if _FORM.fullmatch(text) else None

    @property
    def id(self) -> str:
        return self.text[:12]

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text.encode()).digest()
