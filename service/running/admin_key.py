"""Who comes in first: where keys are required, there has to be one that can make others before anybody is asked
for one."""

import os
from pathlib import Path

from service.errors import Conflict
from service.keys import Secret
from service.settings import Settings, SettingsError
from service.store import keys
from service.store.database import Database

NAME = "NUMERAL_ADMIN_KEY_FILE"  # of the setting, and of the key that is in its file
MAX_BYTES = 1024


def ready(settings: Settings, db: Database) -> None:
    """Where keys are required, let the key of NUMERAL_ADMIN_KEY_FILE be good. Raises SettingsError if there is neither
    such a file nor a key of scope admin."""
    if not settings.requires_key:
        return
    if settings.admin_key_file is not None:
        _adopt(settings.admin_key_file, db)
    elif not keys.has_admin(db):
        why = "NUMERAL_AUTH is on" if settings.auth == "on" else f"NUMERAL_HOST is {settings.host}"
        raise SettingsError(
            f"{why}, so that requests need an API key, and there is none of scope admin: make one with "
            "`numeral keys create admin --scope admin`, or name a file for one in NUMERAL_ADMIN_KEY_FILE; "
            "NUMERAL_AUTH=off lets whoever reaches the port do everything"
        )


def _adopt(file: Path, db: Database) -> None:
    try:
        secret = Secret.parse(_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{NAME}: {file} cannot be read or made: {error}") from None
    if secret is None:
        raise SettingsError(
            f"{NAME}: {file} does not hold an API key; remove it, and a new one is made, or put one in "
            "that `numeral keys create` has shown"
        )
    try:
        keys.adopt(db, secret, name=NAME)
    except Conflict as error:
        raise SettingsError(f"{NAME}: {file}: {error.detail}; remove the file for a new one") from None


def _text(file: Path) -> str:
    """What is in the file; it is made, for its owner's eyes only, if it is not there."""
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if not file.is_file():
            raise error from None
        with file.open("rb") as kept:
            return kept.read(MAX_BYTES).decode().strip()
    with os.fdopen(made, "w") as new:
        secret = Secret.new()
        new.write(secret.text + "\n")
    return secret.text
