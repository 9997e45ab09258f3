"""Settings of the environment."""

from pathlib import Path

import pytest

from app.core.settings import PROJECT_DIR, Settings, without_passwords


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
    ],
)
def test_credentials_are_removed_from_every_address(text: str, shown: str):
    assert without_passwords(text) == shown
