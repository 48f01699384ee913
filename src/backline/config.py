"""Settings, parsed once at the entry point into a frozen object that is passed down.

Precedence: command-line flags, then the environment, then `.env.local`, `.env`, and `backline.toml`
of the current folder. Nothing reads the environment at import time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from backline import errors


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """Everything that can be set. Each field is an environment variable of the same name."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_file=(".env", ".env.local"),
        toml_file="backline.toml",
        populate_by_name=True,
        env_ignore_empty=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=_names("BACKLINE_DATABASE_URL", "DATABASE_URL", "database_url"),
        description="Postgres with pgvector; without it the embedded one is used.",
    )
    data_dir: Path | None = Field(
        default=None,
        validation_alias=_names("BACKLINE_DATA_DIR", "data_dir"),
        description="Folder of the embedded Postgres; default: the per-user data folder.",
    )
    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=_names("OPENAI_API_KEY", "openai_api_key"),
        description="Key of the OpenAI-compatible provider.",
    )
    openai_base_url: str | None = Field(
        default=None,
        validation_alias=_names("OPENAI_BASE_URL", "openai_base_url"),
        description="Any OpenAI-compatible server: Ollama, vLLM, TEI, LM Studio.",
    )
    batch_size: int = Field(
        default=50,
        ge=1,
        le=2048,
        validation_alias=_names("BACKLINE_BATCH_SIZE", "BATCH_SIZE", "batch_size"),
        description="Rows a request to the embedder, at most.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        validation_alias=_names("BACKLINE_WORKERS", "workers"),
        description="Requests in flight at once; default: 2 for local and hash, 8 for a provider.",
    )
    lease_seconds: float = Field(
        default=60,
        ge=2,
        validation_alias=_names("BACKLINE_LEASE_SECONDS", "lease_seconds"),
        description="How long a silent worker keeps what it claimed.",
    )
    give_up_after: float = Field(
        default=600,
        ge=0,
        validation_alias=_names("BACKLINE_GIVE_UP_AFTER", "give_up_after"),
        description="Seconds without one answer from the provider after which a backfill ends.",
    )
    request_timeout: float = Field(
        default=60,
        gt=0,
        validation_alias=_names("BACKLINE_REQUEST_TIMEOUT", "request_timeout"),
        description="Seconds that one request to the provider may take.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls)
        return (init_settings, env_settings, dotenv_settings, toml)


def load(**flags: Any) -> Settings:
    """Settings from all sources; `flags` that are None were not given.

    Raises:
        ConfigurationError: a value is out of range or unreadable; the message names each one.

    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise errors.ConfigurationError(f"These settings cannot be used: {problems}.") from None
    except ValueError as error:  # a TOML or .env file that does not parse
        raise errors.ConfigurationError(f"A settings file cannot be read: {error}.") from None
