"""Wrong settings stop the start with one line, which never holds a password."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core import config
from app.core.config import Settings, load_settings
from app.core.urls import DRIVER, EXAMPLE_URL
from tests.core.conftest import started
from tests.process import POOL, PROJECT

PASSWORD = "correct-horse"
URL = f"{DRIVER}://user:{PASSWORD}@127.0.0.1:1/name"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("POOL_SIZE", "7")
    monkeypatch.setenv("MAX_OVERFLOW", "3")
    monkeypatch.setenv("ECHO_SQL", "true")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("CORS_ORIGINS", "https://example.com, http://127.0.0.1:3000")

    settings = load_settings()

    assert settings.database_url.password == PASSWORD
    assert (settings.pool_size, settings.connections, settings.echo_sql) == (7, 10, True)
    assert settings.log_level == "DEBUG"
    assert settings.cors_origins == ["https://example.com", "http://127.0.0.1:3000"]


def test_the_environment_comes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("POOL_SIZE=5\nMAX_OVERFLOW=6\nOF_ANOTHER_PROGRAM=7\n")
    monkeypatch.setenv("POOL_SIZE", "7")
    monkeypatch.delenv("MAX_OVERFLOW")

    settings = load_settings()

    assert (settings.pool_size, settings.max_overflow) == (7, 6)


async def test_the_service_runs_with_a_pool_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POOL:
        monkeypatch.delenv(name)
    # Only what it takes a busy machine to open a connection is not for the service to say.
    async with started(pool_timeout=10) as (client, _):
        answers = await asyncio.gather(*(client.get("/people") for _ in range(5)))

    assert [answer.status_code for answer in answers] == [200] * 5


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text(URL)
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setitem(config.Settings.model_config, "secrets_dir", tmp_path)

    assert load_settings().database_url.password == PASSWORD


def test_a_password_goes_into_the_urls_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL.replace(f":{PASSWORD}", ""))
    monkeypatch.setenv("MIGRATION_DATABASE_URL", URL.replace(PASSWORD, "own"))
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)

    settings = load_settings()

    assert settings.database_url.password == PASSWORD
    assert settings.migration_database_url is not None
    assert settings.migration_database_url.password == "own"
    assert settings.database_read_url is None
    assert PASSWORD not in repr(settings)


def test_a_secret_that_changes_is_read_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "database_url").write_text(URL)
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setattr(config, "SECRETS", tmp_path)
    monkeypatch.setitem(config.Settings.model_config, "secrets_dir", tmp_path)
    settings = load_settings()
    login = settings.login("database_url")
    (tmp_path / "database_url").write_text(URL.replace(PASSWORD, "new"))

    assert login is not None
    assert login().password == "new"
    # These are not what the files say any more, as those that a program has made for itself.
    assert settings.login("database_url") is None


def test_settings_print_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)

    settings = load_settings()

    assert PASSWORD not in repr(settings) + str(settings.database_url)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DATABASE_URL", None, "required"),
        ("DATABASE_URL", "", EXAMPLE_URL),
        ("DATABASE_URL", PASSWORD, EXAMPLE_URL),
        ("DATABASE_URL", URL.replace(DRIVER, DRIVER.split("+")[0]), f"must start with {DRIVER}://"),
        ("DATABASE_URL", f"sqlite+aiosqlite:///{PASSWORD}", f"must start with {DRIVER}://"),
        ("DATABASE_URL", URL.replace(":1/", ":port/"), EXAMPLE_URL),
        ("POOL_SIZE", "0", "greater than or equal to 1"),
        ("POOL_SIZE", "1001", "less than or equal to 1000"),
        ("POOL_SIZE", "many", "valid integer"),
        ("MAX_OVERFLOW", "-1", "greater than or equal to 0"),
        ("POOL_TIMEOUT", "0", "greater than 0"),
        ("POOL_TIMEOUT", "inf", "finite"),
        ("POOL_TIMEOUT", "nan", "finite"),
        ("POOL_RECYCLE", "-2", "greater than or equal to -1"),
        ("STATEMENT_TIMEOUT", "0", "greater than or equal to 0.001"),
        ("STATEMENT_TIMEOUT", "86401", "less than or equal to 86400"),
        ("MAX_BODY_SIZE", "0", "greater than or equal to 1"),
        ("ECHO_SQL", "perhaps", "boolean"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("CORS_ORIGINS", "https://example.com/path", "origins such as https://example.com"),
        ("CORS_ORIGINS", "example.com", "origins such as https://example.com"),
        ("CORS_ORIGINS", "https://*.example.com", "origins such as https://example.com"),
        ("CORS_ORIGINS", "https://Example.com", "origins such as https://example.com"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, reason: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as stopped:
        load_settings()

    line = str(stopped.value)
    assert f"{name}: " in line
    assert reason in line
    assert "\n" not in line
    assert PASSWORD not in line


def test_a_file_that_cannot_be_read_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(f"DATABASE_URL={URL}\xe9".encode("latin-1"))

    with pytest.raises(SystemExit, match=r"^Wrong settings: \.env .* can't decode .*$") as stopped:
        load_settings()

    assert PASSWORD not in str(stopped.value)


def test_an_error_of_the_settings_holds_no_value() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(database_url=PASSWORD)

    assert PASSWORD not in str(error.value)


def test_git_ignores_secrets() -> None:
    assert ".env" in (PROJECT / ".gitignore").read_text().splitlines()
