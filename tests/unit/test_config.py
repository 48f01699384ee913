"""Settings: precedence of the layers, refused values, and secrets that no text contains."""

from __future__ import annotations

from pathlib import Path

import pytest

from backline import config, errors


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and an environment without any setting."""
    monkeypatch.chdir(tmp_path)
    for field in config.Settings.model_fields:
        for name in config.names_of(field):
            monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_defaults_have_no_origin() -> None:
    settings, origins = config.load_with_origins()
    assert (settings.batch_size, settings.workers, settings.database_url) == (50, None, None)
    assert origins == {}


def test_each_layer_precedes_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "backline.toml").write_text("batch_size = 1\n")
    assert config.load().batch_size == 1
    (folder / ".env").write_text("BATCH_SIZE=2\n")
    assert config.load().batch_size == 2
    (folder / ".env.local").write_text("BATCH_SIZE=3\n")
    assert config.load().batch_size == 3
    monkeypatch.setenv("BATCH_SIZE", "4")
    assert config.load().batch_size == 4
    assert config.load(batch_size=5).batch_size == 5


def test_precedence_does_not_depend_on_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("BACKLINE_DATABASE_URL=postgresql://from-file/x\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://from-environment/x")
    url = config.load().database_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://from-environment/x"


def test_first_name_wins_within_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "7")
    monkeypatch.setenv("BACKLINE_BATCH_SIZE", "8")
    settings, origins = config.load_with_origins()
    assert settings.batch_size == 8
    assert str(origins["batch_size"]) == "BACKLINE_BATCH_SIZE in the environment"


def test_variables_of_a_vite_and_supabase_project_are_read(folder: Path) -> None:
    (folder / ".env.local").write_text(
        "VITE_SUPABASE_URL=https://p.supabase.co/\nVITE_SUPABASE_ANON_KEY=anon\n"
        "SUPABASE_SERVICE_ROLE_KEY='service'\nUSE_LOCAL_API=true\n"
        "VITE_CODETTE_API=http://localhost:8000\nFUNCTION_SECRET=s3\n"
    )
    settings = config.load()
    assert settings.supabase_url == "https://p.supabase.co"
    assert settings.api_url == "http://localhost:8000"
    assert settings.use_local_api is True
    secrets = [settings.supabase_key, settings.supabase_secret_key, settings.function_secret]
    assert [s and s.get_secret_value() for s in secrets] == ["anon", "service", "s3"]


VALUES = {
    "use_local_api": "true",
    "protect_reads": "true",
    "keep_queries": "true",
    "cors_origins": "http://h",
    "max_body_bytes": "2048",
    "via": "edge",
    "root_path": "/backline",
}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for field in config.Settings.model_fields
        for name in config.names_of(field)
    ],
)  # fmt: skip
def test_every_variable_sets_its_setting(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = VALUES.get(field, "http://h/x" if field.endswith("_url") else "9")
    monkeypatch.setenv(name, value)
    _, origins = config.load_with_origins()
    assert origins == {field: config.Origin(name, "the environment")}


def test_secret_key_is_not_read_from_a_vite_variable() -> None:
    assert not [n for n in config.names_of("supabase_secret_key") if n.startswith("VITE_")]


@pytest.mark.parametrize("name", ["WORKERS", "DATA_DIR", "LEASE_SECONDS", "workers"])
def test_bare_field_name_is_not_a_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    assert config.load_with_origins()[1] == {}


def test_empty_variable_counts_as_unset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("BATCH_SIZE=2\n")
    monkeypatch.setenv("BATCH_SIZE", "")
    assert config.load().batch_size == 2


def test_empty_flag_is_refused() -> None:
    """`--database-url "$UNSET"` must not silently select another database."""
    with pytest.raises(errors.ConfigurationError, match="--database-url is empty"):
        config.load(database_url="")


def test_invalid_value_is_named_with_its_origin(folder: Path) -> None:
    (folder / ".env").write_text("BATCH_SIZE=0\nOPENAI_BASE_URL=localhost:1\n")
    with pytest.raises(errors.ConfigurationError) as caught:
        config.load()
    assert "BATCH_SIZE in .env should be greater than or equal to 1" in str(caught.value)
    assert "OPENAI_BASE_URL in .env must begin with http:// or https://" in str(caught.value)


def test_unknown_key_of_the_toml_file_is_refused(folder: Path) -> None:
    (folder / "backline.toml").write_text("batchsize = 10\n")
    with pytest.raises(errors.ConfigurationError, match="Did you mean batch_size"):
        config.load()


@pytest.mark.parametrize("content", [b"batch_size = = 1", b"\xff\xfe"])
def test_unreadable_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "backline.toml").write_bytes(content)
    with pytest.raises(errors.ConfigurationError, match=r"backline\.toml cannot be read"):
        config.load()


def test_no_text_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["database_url", "openai_api_key", "supabase_key", "supabase_secret_key"]
    for field in [*secrets, "function_secret"]:
        monkeypatch.setenv(config.names_of(field)[0], "postgresql://u:hunter2@h/d")
    settings = config.load()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_message_about_an_invalid_value_omits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "hunter2@host")
    with pytest.raises(errors.ConfigurationError) as caught:
        config.load()
    assert "hunter2" not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load().batch_size = 3  # type: ignore[misc]


def test_home_is_expanded_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert config.load(data_dir=Path("~/pg")).data_dir == folder / "pg"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BACKLINE_BATCHSIZE", "BACKLINE_BATCH_SIZE"),
        ("BACKLINE_WORKER", "BACKLINE_WORKERS"),
        ("backline_database_url", "BACKLINE_DATABASE_URL"),
    ],
)
def test_unknown_variable_is_named_with_the_nearest_one(
    name: str, nearest: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (folder / ".env").write_text(f"{name}=1\n")
    config.load()
    assert caplog.messages == [
        f"{name} in .env is no setting and is ignored. Did you mean {nearest}?"
    ]
    caplog.clear()
    (folder / ".env").unlink()
    monkeypatch.setenv(name, "1")
    config.load()
    assert caplog.messages == [
        f"{name} in the environment is no setting and is ignored. Did you mean {nearest}?"
    ]


def test_known_and_foreign_variables_cause_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("BACKLINE_WORKERS", "BACKLINE_VERBOSE", "BATCHSIZE", "MY_BACKLINE_URL"):
        monkeypatch.setenv(name, "1")
    config.load()
    assert caplog.messages == []


def test_broken_line_of_an_env_file_is_named_and_the_others_count(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / ".env").write_text("BATCH_SIZE=7\nthis is no variable\n\nBACKLINE_WORKERS=3\n")
    settings = config.load()
    assert (settings.batch_size, settings.workers) == (7, 3)
    assert caplog.messages == [".env, line 2, is not NAME=value and is ignored."]
