"""The environment: secrets and addresses, and nothing else.

Replicas, releases and weights stand in `serve_config.yaml`; hyper-parameters in `train.config`.
Invariant: a value here is read from `HYDRAULIC_*` variables or `.env`, and is never logged.
"""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_DIR = Path(__file__).resolve().parents[2]
_WHO_ASKS = re.compile(r"//[^/\s]*@")


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
        description="postgresql://user:password@host/database of PostgreSQL or TimescaleDB; embedded server when unset",
    )
    var_dir: Path = Field(
        default=PROJECT_DIR / "var",
        description="where the embedded server, the first key and run outputs live",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="an admin key to accept beside the stored ones; at least 32 characters",
        min_length=32,
    )
    pool_size: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="most connections of each process to the database; two more while it registers machines",
    )
    statement_cache_size: int = Field(
        default=100,
        ge=0,
        description="prepared statements a connection keeps; 0 behind pgbouncer in transaction mode",
    )
    serve_config: Annotated[Path, AfterValidator(lambda path: PROJECT_DIR / path)] = Field(
        default=PROJECT_DIR / "serve_config.yaml",
        description="the file that says what runs, relative to the project: `app.release` changes it, and so does the ingress over HTTP",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    def at(self, dsn: str | None) -> Self:
        """Return these settings with another database; with none or an empty one, as they are."""
        return self.model_copy(update={"dsn": SecretStr(dsn)}) if dsn else self


def without_passwords(text: str) -> str:
    """Return a text with `user:password@` taken out of every address in it, as errors and logs may show it."""
    return _WHO_ASKS.sub("//", text)
