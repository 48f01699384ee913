"""Settings, parsed once at the entry point into a frozen object that is passed down.

Precedence: command-line flags, then the environment, then `.env.local`, `.env` and `backline.toml`
of the current folder. Nothing reads the environment at import time.

The layers are merged here rather than by pydantic-settings, which would also read every field under
its bare name (so that an unrelated `WORKERS` or `DATA_DIR` counts) and cannot say where a value
came from.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from backline import errors

TOML: Final = "backline.toml"
ENV_FILES: Final = (".env.local", ".env")


def _setting(default: Any, *names: str, description: str, **limits: Any) -> Any:
    """A field with the environment variables that it is read from, the first one found wins."""
    return Field(
        default=default, description=description, json_schema_extra={"names": list(names)}, **limits
    )


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _web_address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url.rstrip("/")


def _given(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("is empty")
    return secret


def _listed(value: object) -> object:
    """A list as the environment has it: separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _origin(address: str) -> str:
    if not re.fullmatch(r"https?://[^/\s*]+", address):
        raise ValueError(f"{address!r} is not of the form https://host or http://host:port")
    return address.lower()


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_listed)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Secret = Annotated[SecretStr, AfterValidator(_given)]


class Settings(BaseModel):
    """Everything that can be set. In `backline.toml` a setting goes by its field's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    via: Literal["postgres", "rest", "api", "edge"] = _setting(
        "postgres",
        "BACKLINE_VIA",
        description="How the work is done: over a connection to Postgres, over the API of a "
        "Supabase project (rest), by a Backline server (api) or by the Edge Function (edge). "
        "Change it where there is no connection to Postgres.",
    )

    database_url: Secret | None = _setting(
        None,
        "BACKLINE_DATABASE_URL",
        "DATABASE_URL",
        description="Postgres with pgvector: postgresql://user:password@host:5432/database. "
        "Unset, the embedded Postgres is used.",
    )
    data_dir: Annotated[Path, AfterValidator(_absolute)] | None = _setting(
        None,
        "BACKLINE_DATA_DIR",
        description="Folder of the embedded Postgres. Unset, the per-user data folder. "
        "Change it to keep two databases apart.",
    )
    openai_api_key: Secret | None = _setting(
        None,
        "OPENAI_API_KEY",
        description="Key of the OpenAI-compatible provider. Only the openai models need it.",
    )
    openai_base_url: WebAddress | None = _setting(
        None,
        "OPENAI_BASE_URL",
        description="Any server that speaks OpenAI's API: Ollama, vLLM, TEI, LM Studio. "
        "Unset, OpenAI itself.",
    )
    local_model_folder: Annotated[Path, AfterValidator(_absolute)] | None = _setting(
        None,
        "BACKLINE_LOCAL_MODEL_FOLDER",
        description="Folder of the model where a collection was added with "
        "--model local:/path/to/folder, that is, with weights of your own.",
    )
    local_engine: str = _setting(
        "auto",
        "BACKLINE_LOCAL_ENGINE",
        description="What computes a local model: auto takes the fastest that is installed, "
        "numpy always works. A name that there is not is answered with those that there are.",
    )
    local_threads: int | None = _setting(
        None,
        "BACKLINE_LOCAL_THREADS",
        ge=1,
        description="Processor threads of a local model. Unset, as many as the process may use; "
        "lower it to leave room for other programs.",
    )
    batch_size: int = _setting(
        50,
        "BACKLINE_BATCH_SIZE",
        "BATCH_SIZE",
        ge=1,
        le=2048,
        description="Texts in one request to the embedder, at most. Raise it where the provider is "
        "far away, lower it where its limits are tight. Unset, a local model, which has no such "
        "limits, takes up to 512.",
    )
    workers: int | None = _setting(
        None,
        "BACKLINE_WORKERS",
        ge=1,
        le=256,
        description="Requests in flight at once. Unset, 2 for local and hash models, which share "
        "the processor, and 8 for a provider, which is waited for.",
    )
    requests_per_minute: int | None = _setting(
        None,
        "BACKLINE_REQUESTS_PER_MINUTE",
        ge=1,
        description="Never send more requests a minute. Unset, what the provider's "
        "x-ratelimit headers say; set it where other programs share the quota.",
    )
    tokens_per_minute: int | None = _setting(
        None,
        "BACKLINE_TOKENS_PER_MINUTE",
        ge=1,
        description="Never send more tokens a minute; as requests_per_minute.",
    )
    request_timeout: float = _setting(
        60.0,
        "BACKLINE_REQUEST_TIMEOUT",
        gt=0,
        description="Seconds that one request to the provider may take.",
    )
    give_up_after: float = _setting(
        600.0,
        "BACKLINE_GIVE_UP_AFTER",
        ge=0,
        description="Seconds without one answer from the provider or the database after which a "
        "backfill ends. A sync never gives up.",
    )
    lease_seconds: float = _setting(
        60.0,
        "BACKLINE_LEASE_SECONDS",
        ge=2,
        description="How long a worker that fell silent keeps the rows it claimed.",
    )
    cache_megabytes: int = _setting(
        1024,
        "BACKLINE_CACHE_MEGABYTES",
        ge=0,
        description="What the cache of vectors may take in the database, so that a text is not "
        "paid for twice; the oldest go. 1,024 hold 160,000 vectors of 1,536 dimensions. "
        "0 keeps none.",
    )
    supabase_url: WebAddress | None = _setting(
        None,
        "BACKLINE_SUPABASE_URL",
        "SUPABASE_URL",
        "VITE_SUPABASE_URL",
        description="Address of the Supabase project, https://PROJECT.supabase.co.",
    )
    supabase_key: Secret | None = _setting(
        None,
        "SUPABASE_PUBLISHABLE_KEY",
        "SUPABASE_ANON_KEY",
        "VITE_SUPABASE_PUBLISHABLE_KEY",
        "VITE_SUPABASE_ANON_KEY",
        description="The project's publishable (or anon) key, which may only read.",
    )
    supabase_secret_key: Secret | None = _setting(
        None,
        "SUPABASE_SECRET_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        description="The project's secret (or service_role) key, which may write. Never give it to "
        "a browser: no VITE_ name is read for it.",
    )
    use_local_api: bool = _setting(
        False,  # noqa: FBT003
        "USE_LOCAL_API",
        description="Whether rows go to the server at api_url instead of the Edge Function.",
    )
    api_url: WebAddress | None = _setting(
        None,
        "BACKLINE_API_URL",
        "CODETTE_API",
        "VITE_CODETTE_API",
        description="Address of a Backline server, for example http://localhost:8000.",
    )
    function_secret: Secret | None = _setting(
        None,
        "FUNCTION_SECRET",
        description="Shared secret that the server and the Edge Function ask of their callers.",
    )
    host: str = _setting(
        "127.0.0.1",
        "BACKLINE_HOST",
        min_length=1,
        description="Address that the server listens on. On any but this machine's own it needs "
        "an api_key.",
    )
    port: int = _setting(
        8000,
        "BACKLINE_PORT",
        ge=0,
        le=65535,
        description="Port that the server listens on; 0 takes any that is free.",
    )
    api_key: Secret | None = _setting(
        None,
        "BACKLINE_API_KEY",
        description="Key that callers of the server send as Authorization: Bearer KEY or X-API-Key "
        "in order to write. Unset, function_secret is asked for, where there is one.",
    )
    protect_reads: bool = _setting(
        False,  # noqa: FBT003
        "BACKLINE_PROTECT_READS",
        description="Whether the server asks for the key before it answers reads too.",
    )
    cors_origins: Origins = _setting(
        (),
        "BACKLINE_CORS_ORIGINS",
        description="Web pages of other origins that may use the server, separated by commas: "
        "https://studio.example.com. Its own pages always may.",
    )
    allowed_hosts: Listed = _setting(
        (),
        "BACKLINE_ALLOWED_HOSTS",
        description="Host names that the server answers to, separated by commas, beside this "
        "machine's own. Unset on another address than this machine's own, every name.",
    )
    max_rows: int = _setting(
        1000,
        "BACKLINE_MAX_ROWS",
        ge=1,
        le=100_000,
        description="Rows that one request to the server may bring; more are answered with 413.",
    )
    max_body_bytes: int = _setting(
        8 << 20,
        "BACKLINE_MAX_BODY_BYTES",
        ge=1024,
        description="Bytes that the body of a request to the server may have.",
    )
    max_query_length: int = _setting(
        2000,
        "BACKLINE_MAX_QUERY_LENGTH",
        ge=1,
        description="Characters that a search's query or a prompt may have.",
    )
    rate_limit: float | None = _setting(
        None,
        "BACKLINE_RATE_LIMIT",
        gt=0,
        description="Requests a second that the server takes from one address, after a burst of "
        "ten seconds' worth. Unset, no limit on this machine's own address and 20 elsewhere.",
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value came from, for example `BATCH_SIZE` in `.env`."""

    name: str
    layer: str

    def __str__(self) -> str:
        return self.name if self.layer == "flag" else f"{self.name} in {self.layer}"


def names_of(field: str) -> list[str]:
    """The environment variables that a setting is read from, the first one found wins."""
    extra = Settings.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)  # noqa: S101  every field is made by _setting
    names = extra["names"]
    assert isinstance(names, list)  # noqa: S101
    return [str(name) for name in names]


def load(**flags: Any) -> Settings:
    """Settings from all sources; `flags` that are None were not given.

    Raises:
        ConfigurationError: a value cannot be used, or a file cannot be read; the message says
            which value, from where.

    """
    return load_with_origins(**flags)[0]


def load_with_origins(**flags: Any) -> tuple[Settings, dict[str, Origin]]:
    """`load`, and for each setting that is not at its default, where its value came from."""
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for field, value, origin in _all_given(flags):
        if field not in values:
            values[field], origins[field] = value, origin
    try:
        return Settings(**values), origins
    except ValidationError as error:
        raise errors.ConfigurationError(_complaint(error, origins)) from None


def _all_given(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, Origin]]:
    """Every value that any layer gives, those that win first."""
    for field, value in flags.items():
        if value is not None:
            yield field, value, Origin(f"--{field.replace('_', '-')}", "flag")
    yield from _named(os.environ, "the environment")
    for file in ENV_FILES:
        yield from _named(_env_file(Path(file)), file)
    for field, value in _toml_file(Path(TOML)).items():
        yield field, value, Origin(field, TOML)


def _named(variables: Mapping[str, str | None], layer: str) -> Iterator[tuple[str, Any, Origin]]:
    """The settings among variables; an empty variable is an unset one."""
    for field in Settings.model_fields:
        for name in names_of(field):
            if value := variables.get(name):
                yield field, value, Origin(name, layer)


def _env_file(file: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(file) if file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigurationError(f"{file} cannot be read: {error}.") from None


def _toml_file(file: Path) -> Mapping[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(f"{file} cannot be read: {error}.") from None
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise errors.ConfigurationError(
                f"{file} has the setting {name!r}, which there is not.{meant} "
                f"There are: {', '.join(Settings.model_fields)}."
            )
    return values


def _complaint(error: ValidationError, origins: Mapping[str, Origin]) -> str:
    """Every value that cannot be used, without showing it: it may be a secret."""
    problems = []
    for item in error.errors():
        field = str(item["loc"][0])
        said = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        problems.append(f"{origins.get(field, field)} {said[0].lower()}{said[1:]}")
    return f"These settings cannot be used: {'; '.join(problems)}."
