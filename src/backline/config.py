"""Settings, parsed once at the entry point into a frozen object that is passed down.

Precedence: command-line flags, then the environment, then `.env.local`, `.env` and `backline.toml`
of the current folder. Importing a module reads no environment variables.

This module merges the layers itself. pydantic-settings also reads every field under its bare name,
so that an unrelated `WORKERS` or `DATA_DIR` counts, and does not record the origin of a value.
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

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ValidationError,
)

from backline import errors
from backline.embedders import registry
from backline.environment import env_file, warn_of_unknown
from backline.provider_settings import ProviderSettings, Secret, WebAddress, setting

TOML: Final = "backline.toml"
COLLECTIONS: Final = "collections"  # the part of the file that `backline apply` reads
MODELS: Final = "models"  # entries of the registry
ENV_FILES: Final = (".env.local", ".env")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _split(value: object) -> object:
    """Split a text at its commas, as the environment holds a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def without_default_port(origin: str) -> str:
    """Return an origin as browsers write it: without the port that its scheme implies."""
    scheme, _, _ = origin.partition("://")
    return origin.removesuffix(f":{DEFAULT_PORTS.get(scheme, '')}")


def _origin(address: str) -> str:
    if not re.fullmatch(r"https?://[^/\s*]+", address):
        raise ValueError(f"{address!r} is not of the form https://host or http://host:port")
    return without_default_port(address.lower())


def _root_path(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError(f"{path!r} is not a path such as /backline")
    return path


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_split)]


class Settings(ProviderSettings):
    """All settings. In `backline.toml`, a setting has the name of its field."""

    via: Literal["postgres", "rest", "api", "edge"] = setting(
        "postgres",
        "BACKLINE_VIA",
        description="How rows are read and vectors written: over a connection to Postgres, over "
        "the API of a Supabase project (rest), by a Backline server (api) or by the Edge Function "
        "(edge). Change it if Postgres cannot be reached directly.",
    )

    database_url: Secret | None = setting(
        None,
        "BACKLINE_DATABASE_URL",
        "DATABASE_URL",
        description="Postgres with pgvector: postgresql://user:password@host:5432/database. "
        "Unset, the embedded Postgres.",
    )
    data_dir: Annotated[Path, AfterValidator(_absolute)] | None = setting(
        None,
        "BACKLINE_DATA_DIR",
        description="Folder of the embedded Postgres. Unset, the user's data folder. "
        "Change it to use a second, separate database.",
    )
    local_model_folder: Annotated[Path, AfterValidator(_absolute)] | None = setting(
        None,
        "BACKLINE_LOCAL_MODEL_FOLDER",
        description="Folder of your own model, for collections that were added with "
        "--model local:/path/to/folder.",
    )
    local_engine: str = setting(
        "auto",
        "BACKLINE_LOCAL_ENGINE",
        description="Engine that computes local models. auto uses the fastest that is installed; "
        "numpy is always available. An unknown name is refused with a list of the engines.",
    )
    local_threads: int | None = setting(
        None,
        "BACKLINE_LOCAL_THREADS",
        ge=1,
        description="Threads that compute a local model. Unset, one for each CPU available to the "
        "process. Lower it to leave CPUs for other programs.",
    )
    batch_size: int = setting(
        50,
        "BACKLINE_BATCH_SIZE",
        "BATCH_SIZE",
        ge=1,
        le=2048,
        description="Maximum number of texts in one request to the embedder. Raise it if "
        "requests take long, lower it if the provider limits their size. Unset, 512 for a local "
        "model.",
    )
    workers: int | None = setting(
        None,
        "BACKLINE_WORKERS",
        ge=1,
        le=256,
        description="Concurrent requests to the embedder. Unset, 8 for a provider, and 2 for local "
        "and hash models, which are limited by the CPU.",
    )
    requests_per_minute: int | None = setting(
        None,
        "BACKLINE_REQUESTS_PER_MINUTE",
        ge=1,
        description="Maximum number of requests to the provider a minute. Unset, the provider's "
        "x-ratelimit headers decide. Set it if other programs share the quota.",
    )
    tokens_per_minute: int | None = setting(
        None,
        "BACKLINE_TOKENS_PER_MINUTE",
        ge=1,
        description="Maximum number of tokens sent to the provider a minute; as "
        "requests_per_minute.",
    )
    request_timeout: float = setting(
        60.0,
        "BACKLINE_REQUEST_TIMEOUT",
        gt=0,
        description="Timeout of one request to the provider, in seconds.",
    )
    give_up_after: float = setting(
        600.0,
        "BACKLINE_GIVE_UP_AFTER",
        ge=0,
        description="Seconds after which a backfill ends if neither the provider nor the database "
        "responds. A sync does not give up.",
    )
    lease_seconds: float = setting(
        60.0,
        "BACKLINE_LEASE_SECONDS",
        ge=2,
        description="Seconds that a worker keeps its claimed rows after its last heartbeat.",
    )
    sweep_seconds: float = setting(
        900.0,
        "BACKLINE_SWEEP_SECONDS",
        ge=1,
        description="Seconds between two sweeps of a polled source (add --follow). A sweep "
        "compares every row, and finds deleted rows, which polls cannot see.",
    )
    cache_megabytes: int = setting(
        1024,
        "BACKLINE_CACHE_MEGABYTES",
        ge=0,
        description="Size of the vector cache in the database, which avoids embedding a text "
        "twice; the oldest vectors are deleted. 1,024 hold 160,000 vectors of 1,536 dimensions. "
        "0 disables the cache.",
    )
    keep_queries: bool = setting(
        False,  # noqa: FBT003
        "BACKLINE_KEEP_QUERIES",
        description="Keep the text of search queries in the database, so that a new model can be "
        "compared on them: the newest 10,000 of each collection, without the person that asked. "
        "backline queries shows and deletes them.",
    )
    supabase_url: WebAddress | None = setting(
        None,
        "BACKLINE_SUPABASE_URL",
        "SUPABASE_URL",
        "VITE_SUPABASE_URL",
        description="Address of the Supabase project, https://PROJECT.supabase.co.",
    )
    supabase_key: Secret | None = setting(
        None,
        "SUPABASE_PUBLISHABLE_KEY",
        "SUPABASE_ANON_KEY",
        "VITE_SUPABASE_PUBLISHABLE_KEY",
        "VITE_SUPABASE_ANON_KEY",
        description="The project's publishable (or anon) key, which can only read.",
    )
    supabase_secret_key: Secret | None = setting(
        None,
        "SUPABASE_SECRET_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        description="The project's secret (or service_role) key, which can write. It must not "
        "reach a browser, so it is not read from any VITE_ variable.",
    )
    use_local_api: bool = setting(
        False,  # noqa: FBT003
        "USE_LOCAL_API",
        description="Send rows to the server at api_url instead of the Edge Function.",
    )
    api_url: WebAddress | None = setting(
        None,
        "BACKLINE_API_URL",
        "CODETTE_API",
        "VITE_CODETTE_API",
        description="Address of a Backline server, for example http://localhost:8000.",
    )
    function_secret: Secret | None = setting(
        None,
        "FUNCTION_SECRET",
        description="Secret that callers of the server and the Edge Function must send.",
    )
    host: str = setting(
        "127.0.0.1",
        "BACKLINE_HOST",
        min_length=1,
        description="Address that the server listens on. Any address but localhost requires "
        "api_key.",
    )
    port: int = setting(
        8000,
        "BACKLINE_PORT",
        ge=0,
        le=65535,
        description="Port that the server listens on. 0 selects a free port.",
    )
    api_key: Secret | None = setting(
        None,
        "BACKLINE_API_KEY",
        description="Key that callers of the server send as Authorization: Bearer KEY or X-API-Key "
        "to write. Unset, function_secret if that is set.",
    )
    keys_file: Annotated[Path, AfterValidator(_absolute)] | None = setting(
        None,
        "BACKLINE_KEYS_FILE",
        description="File with the keys of several callers, each with a name, a role and an "
        "expiry; backline keys writes it. The server reads it again when it changes.",
    )
    protect_reads: bool = setting(
        False,  # noqa: FBT003
        "BACKLINE_PROTECT_READS",
        description="Require the key for reads as well.",
    )
    cors_origins: Origins = setting(
        (),
        "BACKLINE_CORS_ORIGINS",
        description="Other origins of web pages that may use the server, separated by commas: "
        "https://studio.example.com. The server's own pages always may.",
    )
    allowed_hosts: Names = setting(
        (),
        "BACKLINE_ALLOWED_HOSTS",
        description="Host names that the server accepts besides localhost, separated by commas. "
        "Unset, every name if the server listens on another address than localhost.",
    )
    root_path: Annotated[str, AfterValidator(_root_path)] = setting(
        "",
        "BACKLINE_ROOT_PATH",
        description="Path below which a proxy serves the server, such as /backline. The proxy may "
        "strip it or pass it on.",
    )
    keep_alive: int = setting(
        75,
        "BACKLINE_KEEP_ALIVE",
        ge=1,
        description="Seconds that the server keeps an idle connection open. Longer than the idle "
        "timeout of a load balancer, usually 60, or requests on a closed connection fail with 502.",
    )
    max_rows: int = setting(
        1000,
        "BACKLINE_MAX_ROWS",
        ge=1,
        le=100_000,
        description="Maximum number of rows in one request to the server; more are refused with "
        "413.",
    )
    max_body_bytes: int = setting(
        8 << 20,
        "BACKLINE_MAX_BODY_BYTES",
        ge=1024,
        description="Maximum number of bytes in the body of a request to the server.",
    )
    max_connections: int = setting(
        4096,
        "BACKLINE_MAX_CONNECTIONS",
        ge=1,
        description="Maximum number of open connections to the server, WebSockets included; more "
        "get 503. The process's limit on open files, less 128, applies too.",
    )
    header_timeout: float = setting(
        10.0,
        "BACKLINE_HEADER_TIMEOUT",
        gt=0,
        description="Seconds within which the server must receive the headers of a request. It "
        "then sends 408 and closes the connection.",
    )
    body_timeout: float = setting(
        60.0,
        "BACKLINE_BODY_TIMEOUT",
        gt=0,
        description="Seconds within which the server must receive the body of a request, after its "
        "headers. Raise it for large bodies over slow networks.",
    )
    max_query_length: int = setting(
        2000,
        "BACKLINE_MAX_QUERY_LENGTH",
        ge=1,
        description="Maximum number of characters in a search query or a prompt.",
    )
    rate_limit: float | None = setting(
        None,
        "BACKLINE_RATE_LIMIT",
        gt=0,
        description="Requests a second that the server accepts from one address, after a burst of "
        "ten times as many. Unset, 20, or no limit if the server listens on localhost.",
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a setting's value, for example `BATCH_SIZE` in `.env`."""

    name: str
    layer: str

    def __str__(self) -> str:
        return self.name if self.layer == "flag" else f"{self.name} in {self.layer}"


def names_of(field: str) -> list[str]:
    """Return the environment variables of a setting. The first one that is set wins."""
    extra = Settings.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)  # noqa: S101  every field is made by _setting
    names = extra["names"]
    assert isinstance(names, list)  # noqa: S101
    return [str(name) for name in names]


def load(**flags: Any) -> Settings:
    """Return the settings of all layers. A flag that is None is not set.

    Raises:
        ConfigurationError: a value is invalid, or a file cannot be read. The message names the
            origin of each invalid value.

    """
    return load_with_origins(**flags)[0]


def load_with_origins(**flags: Any) -> tuple[Settings, dict[str, Origin]]:
    """Return the settings, and the origin of each one that is not at its default."""
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for field, value, origin in _layers(flags):
        if field not in values:
            values[field], origins[field] = value, origin
    try:
        return Settings(**values), origins
    except ValidationError as error:
        raise errors.ConfigurationError(_invalid(error, origins)) from None


def _layers(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, Origin]]:
    """Yield every value of every layer, in order of precedence."""
    for field, value in flags.items():
        if value is not None:
            yield field, value, Origin(f"--{field.replace('_', '-')}", "flag")
    yield from _variables(os.environ, "the environment")
    for file in ENV_FILES:
        yield from _variables(env_file(Path(file)), file)
    for field, value in _toml_file(Path(TOML)).items():
        yield field, value, Origin(field, TOML)


def _variables(
    variables: Mapping[str, str | None], layer: str
) -> Iterator[tuple[str, Any, Origin]]:
    """Yield the settings among environment variables. An empty variable counts as unset."""
    warn_of_unknown(
        variables, {n for field in Settings.model_fields for n in names_of(field)}, layer
    )
    for field in Settings.model_fields:
        for name in names_of(field):
            if value := variables.get(name):
                yield field, value, Origin(name, layer)


def _toml_file(file: Path) -> Mapping[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(f"{file} cannot be read: {error}.") from None
    values.pop(COLLECTIONS, None)
    registry.declare(registry.parse_models(values.pop(MODELS, []), file.name))
    for name in values:
        if name not in Settings.model_fields:
            raise errors.ConfigurationError(_unknown(name, file))
    return values


def _unknown(name: str, file: Path) -> str:
    similar = difflib.get_close_matches(name, [*Settings.model_fields, COLLECTIONS, MODELS], 1)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return (
        f"{file} has an unknown setting {name!r}.{hint} "
        f"The settings are: {', '.join(Settings.model_fields)}."
    )


def _invalid(error: ValidationError, origins: Mapping[str, Origin]) -> str:
    """Return a message for every invalid value. It omits the values, which may be secrets."""
    problems = []
    for item in error.errors():
        field = str(item["loc"][0])
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        problems.append(f"{origins.get(field, field)} {message[0].lower()}{message[1:]}")
    return f"These settings are invalid: {'; '.join(problems)}."
