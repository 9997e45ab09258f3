"""Settings of the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core import settings as settings_module
from app.core.errors import SettingsError
from app.core.settings import PROJECT_DIR, Settings, without_passwords

DSN, KEY = "postgresql://ann:secret@db/plant", "k" * 32


def test_relative_path_of_the_serve_config_is_relative_to_the_project(
    monkeypatch: pytest.MonkeyPatch,
):
    assert Settings().serve_config == PROJECT_DIR / "serve_config.yaml"
    for given, found in (
        ("plant/serve.yaml", PROJECT_DIR / "plant/serve.yaml"),
        ("/etc/serve.yaml", Path("/etc/serve.yaml")),
    ):
        monkeypatch.setenv("HYDRAULIC_SERVE_CONFIG", given)
        assert Settings().serve_config == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host:5000/api", "http://host:5000/api"),
        (
            "to https://ann:s@cr:t@host/x and postgresql://ann:secret@db",
            "to https://host/x and postgresql://db",
        ),
        ("https://host/people@work, ann@work", "https://host/people@work, ann@work"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
        (
            "to postgresql://db/x?user=ann&password=s%40cret&sslpassword=key&sslmode=require",
            "to postgresql://db/x?user=ann&password=***&sslpassword=***&sslmode=require",
        ),
    ],
)
def test_credentials_are_removed_from_every_address(text: str, shown: str):
    assert without_passwords(text) == shown


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of secrets, as a container has it, in an environment without settings."""
    for name in ("HYDRAULIC_DSN", "HYDRAULIC_API_KEY", "HYDRAULIC_POOL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setattr(settings_module, "SECRETS_DIR", directory)
    return directory


def test_secrets_are_read_from_files_without_their_line_ends(secrets: Path):
    (secrets / "hydraulic_dsn").write_text(DSN + "\n")
    (secrets / "HYDRAULIC_API_KEY").write_text(KEY)
    (secrets / "dsn").write_text("another service's")
    (secrets / "ray_auth_token").write_text("another service's")
    found = Settings()
    assert found.dsn is not None
    assert found.dsn.get_secret_value() == DSN
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == KEY
    assert "secret@" not in repr(found)


def test_variable_wins_over_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch):
    (secrets / "hydraulic_pool_size").write_text("3")
    assert Settings().pool_size == 3
    monkeypatch.setenv("HYDRAULIC_POOL_SIZE", "5")
    assert Settings().pool_size == 5


def test_invalid_secret_is_refused_without_its_value(secrets: Path):
    (secrets / "hydraulic_api_key").write_text("short-secret")
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert "api_key" in str(raised.value)
    assert "short-secret" not in str(raised.value)


def test_directory_of_secrets_has_to_be_there_where_a_variable_names_it(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (secrets / "hydraulic_dsn").write_text(DSN)
    monkeypatch.setenv("HYDRAULIC_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match=r"HYDRAULIC_SECRETS_DIR .*gone', found none: mount"):
        Settings()
    monkeypatch.setenv("HYDRAULIC_SECRETS_DIR", str(secrets))
    monkeypatch.setattr(settings_module, "SECRETS_DIR", tmp_path / "gone")
    assert Settings().dsn is not None
    monkeypatch.delenv("HYDRAULIC_SECRETS_DIR")
    assert Settings().dsn is None
