"""Settings: from the environment, from `.env`, or from files in `/run/secrets`."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
<% if cookiecutter.sync_bridge == "yes" %>
from typing import Annotated, Any, Literal, Self, cast
<% else %>
from typing import Annotated, Literal, Self, cast
<% endif %>

<% if cookiecutter.sync_bridge == "yes" %>
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
<% else %>
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
<% endif %>
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL

from .urls import parse_url

SECRETS = Path("/run/secrets")
# As browsers write them: in small letters, without a path.
ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]_-]+|\*")


<% if cookiecutter.sync_bridge == "yes" %>
def share_of_pool(size: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> int:
    """Return a part of POOL_SIZE that leaves some: a quarter, where 0 stands for the default.

    Raises ValueError.
    """
    # Without one, POOL_SIZE is wrong itself, and named.
    pool_size = info.data.get("pool_size", 1000)
    share: int = validate(max(1, pool_size // 4) if size == 0 else size)
    if share >= pool_size:
        raise ValueError("must be less than POOL_SIZE")
    return share


<% endif %>
def parse_origins(value: str | list[str]) -> list[str]:
    """Return the origins in a text with commas. Raises ValueError."""
    words = value.split(",") if isinstance(value, str) else value
    origins = [word.strip() for word in words if word.strip()]
    if not all(ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("must be origins such as https://example.com, with commas, or *")
    return origins


def find_exporter(port: int) -> int:
    """Check that what serves metrics is installed. Raises ValueError."""
    if find_spec("prometheus_client") is None:
        raise ValueError("needs what `uv sync --group telemetry` installs")
    return port


MetricsPort = Annotated[int, Field(ge=1, le=65_535), AfterValidator(find_exporter)]

# What is off without one, and with an empty text.
EmptyIsNone = BeforeValidator(lambda value: None if value == "" else value)

# Of a database beside the service's own: an empty text is none.
OtherURL = Annotated[
    URL | None, NoDecode, BeforeValidator(lambda value: parse_url(value) if value else None)
]


class Settings(BaseSettings):
    """What can be set from outside, in upper case: `POOL_SIZE=10`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="ignore",
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    database_url: Annotated[URL, NoDecode, BeforeValidator(parse_url)] = Field(repr=False)

    # A replica that answers the reads; what was just written may come a moment later there.
    database_read_url: OtherURL = Field(default=None, repr=False)

    # Where migrations run, if not there: by another user, or past a pooler such as PgBouncer.
    migration_database_url: OtherURL = Field(default=None, repr=False)

    # The password of these URLs, where they have none.
    database_password: SecretStr | None = None

    # Connections that stay open, and how many more a worker opens under load.
    pool_size: int = Field(default=<< cookiecutter.pool_size >>, ge=1, le=1000)
    max_overflow: int = Field(default=<< cookiecutter.max_overflow >>, ge=0, le=1000)

<% if cookiecutter.sync_bridge == "yes" %>
    # How many of POOL_SIZE are for synchronous code, which gets as many threads: a quarter.
    sync_pool_size: Annotated[int, Field(ge=1), WrapValidator(share_of_pool)] = Field(
        default=0, validate_default=True
    )

<% endif %>
    # Seconds a request waits for a connection before it is answered 503.
    pool_timeout: float = Field(default=<< cookiecutter.pool_timeout >>, gt=0)

    # Seconds after which a connection is replaced; -1 for never.
    pool_recycle: int = Field(default=<< cookiecutter.pool_recycle >>, ge=-1)

    # Seconds after which the server stops a statement; the request is answered 504. A day at most:
    # servers refuse some longer times, each its own.
    statement_timeout: float = Field(default=30, ge=0.001, le=86_400)

    # Bytes of a request's body, above which it is answered 413. A route that takes more says so:
    # `@router.post("/import", max_body_size=50_000_000)`.
    max_body_size: int = Field(default=1_000_000, ge=1)

    # Log every statement, with its parameters.
    echo_sql: bool = False

    # Seconds from which on a statement is written to the log, without its values.
    slow_statement: Annotated[float | None, EmptyIsNone] = Field(default=None, ge=0)

    # Where each worker serves `/metrics` for Prometheus: the next free port from this one on.
    metrics_port: Annotated[MetricsPort | None, EmptyIsNone] = None

    # What is written to the log: from this level on.
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
    ] = "INFO"

    # Web pages of these origins may call the service: `https://example.com,https://example.org`.
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(parse_origins)] = []

    @model_validator(mode="after")
    def _complete_urls(self) -> Self:
        """Put the password into the URLs without one."""
        if self.database_password is not None:
            for name in ("database_url", "database_read_url", "migration_database_url"):
                url: URL | None = getattr(self, name)
                if url is not None and url.password is None:
                    password = self.database_password.get_secret_value()
                    setattr(self, name, url.set(password=password))
        return self

    def login(self, name: str) -> Callable[[], URL] | None:
        """Return a function that reads a URL anew, with the user and password of now.

        They may change in the files of `/run/secrets` while the service runs. None where there
        are no such files, or where these settings are not those of the environment.
        """
        if not SECRETS.is_dir() or getattr(Settings(), name) != getattr(self, name):
            return None
        return lambda: cast(URL, getattr(Settings(), name))

    @property
    def connections(self) -> int:
        """Return the most connections that one worker opens."""
        return self.pool_size + self.max_overflow


def load_settings() -> Settings:
    """Read the settings.

    Raises SystemExit with one line that names each wrong setting. No value is printed, since the
    wrong one may hold a password.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SystemExit(f"Wrong settings: {'; '.join(wrong)}") from None
    except (OSError, UnicodeError) as error:
        raise SystemExit(f"Wrong settings: .env or {SECRETS}: {error}") from None
