"""Settings from the environment: secrets and addresses.

Replicas, releases and weights are in `serve_config.yaml`, hyper-parameters in `train.config`.
Invariant: values come from `HYDRAULIC_*` variables or `.env`, and are never logged.
"""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_DIR = Path(__file__).resolve().parents[2]
_CREDENTIALS = re.compile(r"//[^/\s]*@")


class Settings(BaseSettings):
    """Secrets and addresses of one process."""

    model_config = SettingsConfigDict(
        env_prefix="HYDRAULIC_",
        env_file=PROJECT_DIR / ".env",
        env_file_encoding="utf-8",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    dsn: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host/database of PostgreSQL or TimescaleDB; "
        "embedded server when unset",
    )
    var_dir: Path = Field(
        default=PROJECT_DIR / "var",
        description="directory of the embedded server, the first key and run outputs",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="an admin key accepted beside the stored ones; at least 32 characters",
        min_length=32,
    )
    pool_size: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="most connections of each process to the database; two more while it "
        "registers machines",
    )
    statement_cache_size: int = Field(
        default=100,
        ge=0,
        description="prepared statements per connection; 0 behind pgbouncer in transaction mode",
    )
    serve_config: Annotated[Path, AfterValidator(lambda path: PROJECT_DIR / path)] = Field(
        default=PROJECT_DIR / "serve_config.yaml",
        description="the Serve configuration, relative to the project; `hydraulic release` and the "
        "ingress change it",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    def at(self, dsn: str | None) -> Self:
        """Return these settings with another database; unchanged for None or an empty DSN."""
        return self.model_copy(update={"dsn": SecretStr(dsn)}) if dsn else self


def without_passwords(text: str) -> str:
    """Remove `user:password@` from every address in a text, for errors and logs."""
    return _CREDENTIALS.sub("//", text)
