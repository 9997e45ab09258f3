"""Writes the secrets of `cluster/compose.yaml`, each once: `python -m cluster.compose_secrets`.

Compose mounts these files into containers, whose users are not this one: so the files can be read
by all, in a directory that only this user enters. A file that is there is kept.
"""

import secrets
from pathlib import Path

DIRECTORY = Path(__file__).with_name("secrets")


def write_secrets(directory: Path) -> list[str]:
    """Write the secrets that are missing.

    Returns:
        The names of the files that were written.

    Raises:
        SystemExit: the DSN is there without its password, or the password without its DSN.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    password_file, dsn_file = directory / "database_password", directory / "hydraulic_dsn"
    if password_file.exists() != dsn_file.exists():
        raise SystemExit(
            f"expected both or none of '{password_file}' and '{dsn_file}', which has the same "
            "password, found one: remove it, or write the other"
        )
    password = secrets.token_urlsafe(32)
    values = {
        "database_password": password,
        "hydraulic_dsn": f"postgresql://hydraulic:{password}@timescaledb:5432/hydraulic",
        "ray_auth_token": secrets.token_hex(32),
        "grafana_admin_password": secrets.token_urlsafe(16),
    }
    written = [name for name in values if not (directory / name).exists()]
    for name in written:
        (directory / name).write_text(values[name], encoding="utf-8")
        (directory / name).chmod(0o644)
    return written


def main() -> None:
    """Write them where the compose file expects them, and say which."""
    written = write_secrets(DIRECTORY)
    print(f"wrote {', '.join(written) or 'nothing, all are there'} to cluster/secrets")


if __name__ == "__main__":
    main()
