"""Settings: what an error may show of an address."""

import pytest

from app.settings import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host:5000/api", "http://host:5000/api"),
        ("to https://ann:s@cr:t@host/x and postgresql://ann:secret@db", "to https://host/x and postgresql://db"),
        ("https://host/people@work, ann@work", "https://host/people@work, ann@work"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
    ],
)
def test_every_address_is_told_without_who_asks(text: str, shown: str):
    assert without_passwords(text) == shown
