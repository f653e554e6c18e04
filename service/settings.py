"""Every setting of the service, validated once at start. Environment variables carry the prefix
NUMERAL_; a variable with that prefix that names no setting is refused, so that a typing mistake is
seen at start and not in production."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import ServiceError

PREFIX = "NUMERAL_"
DATABASES = ("sqlite:///", "postgresql+psycopg://")
CLIENT_VARIABLES = frozenset({"NUMERAL_URL", "NUMERAL_API_KEY"})  # read by the command, not by the service


HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[?[0-9a-f:]*:[0-9a-f:.]*\]?")
ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

Names = Annotated[tuple[str, ...] | None, NoDecode]  # with commas between


class SettingsError(ServiceError):
    status, code, title = 500, "bad_settings", "The settings have mistakes"


class Settings(BaseSettings):
    """What an operator can set. `NUMERAL_HOME=/data` sets `home`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Annotated[
        Path, Field(description="Folder of everything kept: database, datasets, embedded broker.")
    ] = Path("~/.numeral")
    host: Annotated[str, Field(description="Address that the API listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port of the API; 0 takes a free one.")] = 8000
    api_processes: Annotated[
        int,
        Field(ge=1, le=64, description="Processes that answer HTTP; they share the port and the database."),
    ] = 1
    auth: Annotated[
        Literal["auto", "on", "off"],
        Field(
            description="Whether requests need an API key. auto: unless HOST is a loopback address. "
            "Off on any other address, whoever reaches it may do everything."
        ),
    ] = "auto"
    admin_key_file: Annotated[
        Path | None,
        Field(
            description="File with an API key of scope admin, which is good from the start; "
            "made with a new one if it is not there."
        ),
    ] = None
    trusted_hosts: Annotated[
        Names,
        Field(
            description="Names under which the API is asked (`Host`), with commas between, `*.` before one for those "
            "below it; loopback names always are. Unset: only those if HOST is a loopback address, else any."
        ),
    ] = None
    cors_origins: Annotated[
        Names,
        Field(
            description="Origins, such as `https://lab.example`, whose pages may ask the API, with commas between; "
            "`*` for all. Unset: none but its own."
        ),
    ] = None
    requests_per_minute: Annotated[
        int | None,
        Field(
            ge=1,
            description="Requests that an API key may make a minute, or a client address where none is needed; more "
            "are answered 429. Each API process counts its share alone. Unset: any number.",
        ),
    ] = None
    key_queued_jobs: Annotated[
        int | None,
        Field(ge=1, description="Jobs of one API key that may wait at a time; one more is answered 429."),
    ] = None
    key_stored_bytes: Annotated[
        int | None,
        Field(
            ge=1,
            description="Bytes of checkpoints, batches and datasets of one API key beyond which it submits no more of them (409).",
        ),
    ] = None
    api_device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(
            description="What an API process may serve with beside the CPU: `cuda` for batches that are faster there; "
            "`auto` does so where there is a GPU and PyTorch."
        ),
    ] = "auto"
    database_url: Annotated[
        SecretStr | None,
        Field(
            description="SQLAlchemy URL, such as `postgresql+psycopg://user:password@host/numeral`. "
            "Unset: SQLite at `HOME/numeral.db`."
        ),
    ] = None
    database_password_file: Annotated[
        Path | None,
        Field(description="File with the password of DATABASE_URL, which then has none itself."),
    ] = None
    broker_url: Annotated[
        SecretStr | None,
        Field(
            description="Redis or Valkey URL, such as `redis://redis:6379/0`. "
            "Unset: the private Valkey that `numeral up` starts at `HOME/broker.sock`."
        ),
    ] = None
    broker_password_file: Annotated[
        Path | None,
        Field(description="File with the password of BROKER_URL, which then has none itself."),
    ] = None
    data_dir: Annotated[
        Path | None,
        Field(
            description="Folder with IDX files (gzipped or not), tried before any download; "
            "flat, or as torchvision lays them out."
        ),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="What this worker trains on; `auto` takes the GPUs if there are any."),
    ] = "auto"
    workers: Annotated[
        int,
        Field(ge=1, le=64, description="Training processes of a CPU worker (a GPU worker has one a GPU)."),
    ] = 1
    threads: Annotated[
        int | None,
        Field(ge=1, le=1024, description="CPU threads of each training process. Unset: cores / workers."),
    ] = None
    lease_seconds: Annotated[
        float,
        Field(ge=1, le=3600, description="Seconds after which a silent worker loses its job, or its batch."),
    ] = 60
    reconcile_seconds: Annotated[
        float, Field(ge=0.1, le=600, description="Seconds between two rounds of the reconciler.")
    ] = 5
    max_attempts: Annotated[
        int,
        Field(
            ge=1, le=100, description="Workers a job or a batch may lose before it fails as `worker_lost`."
        ),
    ] = 3
    max_parameters: Annotated[
        int, Field(ge=1, description="Parameter budget of a network that a spec may ask for.")
    ] = 200_000_000
    max_queued_jobs: Annotated[
        int, Field(ge=1, description="Jobs that may wait at a time; one more is answered 503.")
    ] = 10_000
    max_together: Annotated[
        int,
        Field(ge=1, le=256, description="Members of a sweep that a worker trains together, where it can."),
    ] = 16
    max_sweep_members: Annotated[int, Field(ge=1, description="Jobs that one sweep may ask for.")] = 1000
    max_body_bytes: Annotated[
        int, Field(ge=1024, description="Largest body of a prediction request, in bytes.")
    ] = 32 * 1024**2
    max_batch_bytes: Annotated[int, Field(ge=1024, description="Largest body of a batch, in bytes.")] = (
        1024**3
    )
    max_json_bytes: Annotated[
        int,
        Field(
            ge=1024, description="Largest body of any other request, and largest line of a stream, in bytes."
        ),
    ] = 1024**2
    max_images: Annotated[
        int,
        Field(ge=1, description="Images that one prediction request, or an upload of pictures, may carry."),
    ] = 4096
    max_feedback: Annotated[
        int,
        Field(ge=0, description="Images that are kept on request (`store=true`) at a time; 0: none are."),
    ] = 100_000
    max_image_pixels: Annotated[
        int,
        Field(ge=784, description="Pixels (width x height) of an uploaded image, read before it is decoded."),
    ] = 40_000_000
    max_waiting_images: Annotated[
        int,
        Field(
            ge=1, description="Images that may wait for a network in one API process; more are answered 503."
        ),
    ] = 4096
    keep_checkpoints_days: Annotated[
        float | None,
        Field(
            gt=0,
            description="Days after a job's end when those of its checkpoints go that no model is of, and what it could "
            "have been resumed from. Unset: they stay. Models always do.",
        ),
    ] = None
    keep_batches_days: Annotated[
        float | None,
        Field(gt=0, description="Days after a batch's end when it goes, with its answers. Unset: it stays."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe line that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(
            description="How lines are written to standard error: json, an object a line; console, for people; auto: "
            "console at a terminal, else json."
        ),
    ] = "auto"
    otlp_endpoint: Annotated[
        str | None,
        Field(
            description="Where an OpenTelemetry collector takes OTLP over HTTP, such as `http://collector:4318`; asks "
            "for `numeral[otel]`. Unset: nothing is traced."
        ),
    ] = None

    @field_validator("database_url")
    @classmethod
    def _supported(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(DATABASES):
            raise ValueError(f"must begin with one of {', '.join(DATABASES)}")
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, such as http://collector:4318")
        return url

    @field_validator("trusted_hosts", "cors_origins", mode="before")
    @classmethod
    def _parted(cls, names: object) -> object:
        if not isinstance(names, str):
            return names
        return tuple(filter(None, (name.strip().lower() for name in names.split(",")))) or None

    @field_validator("trusted_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for host in hosts or ():
            if HOST.fullmatch(host) is None:
                raise ValueError(
                    "must be names or addresses without a port, such as numeral.example or *.example"
                )
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in origins or ():
            if origin != "*" and ORIGIN.fullmatch(origin) is None:
                raise ValueError("must be origins such as https://lab.example:8443, without a path, or *")
        return origins

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        for name in ("home", "data_dir", "admin_key_file", "database_password_file", "broker_password_file"):
            path: Path | None = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, path.expanduser().absolute())
        return self

    @model_validator(mode="after")
    def _with_passwords(self) -> Self:
        for name, file in (("database", self.database_password_file), ("broker", self.broker_password_file)):
            url: SecretStr | None = getattr(self, f"{name}_url")
            if file is not None:
                if url is None:
                    raise ValueError(
                        f"{PREFIX}{name.upper()}_PASSWORD_FILE is set, {PREFIX}{name.upper()}_URL is not"
                    )
                object.__setattr__(
                    self, f"{name}_url", SecretStr(_with_password(url.get_secret_value(), file))
                )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the API listens where only this machine reaches it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def requires_key(self) -> bool:
        """Whether requests need an API key."""
        return self.auth == "on" or (self.auth == "auto" and not self.is_local)

    @property
    def database(self) -> str:
        """SQLAlchemy URL in force."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'numeral.db'}"

    @property
    def cache_dir(self) -> Path:
        """Where downloaded datasets are kept."""
        return self.home / "data"


def _with_password(url: str, file: Path) -> str:
    """The URL with the password that the file holds, anew each time it is read so. Raises ValueError, which names
    the file and never what is in it."""
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not password:
        raise ValueError(f"{file} is empty, and has to hold a password")
    parts = urlsplit(url)
    user, _, address = parts.netloc.rpartition("@")
    if ":" in user:
        raise ValueError(f"a password is in the URL, and another in {file}: remove one")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}"))


def load() -> Settings:
    """The settings of this process. Raises SettingsError that names each wrong variable."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"no such setting: {', '.join(unknown)}; the README lists those there are")
    try:
        return Settings()
    except ValidationError as error:
        wrong = (_told(item["loc"], item["msg"]) for item in error.errors())
        raise SettingsError("; ".join(wrong)) from None  # which would tell the value, a password perhaps


def _told(place: tuple[int | str, ...], message: str) -> str:
    """A mistake with its variable before it, unless it is one of several that do not go together."""
    return f"{PREFIX}{str(place[0]).upper()}: {message}" if place else message
