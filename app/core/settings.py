"""Settings from the environment: secrets and addresses.

Replicas, releases and weights are in `serve_config.yaml`, hyper-parameters in `train.config`.
Invariant: values come from `HYDRAULIC_*` variables, `.env` or files of secrets, in this order, and
are never logged.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from app.core.errors import SettingsError

PROJECT_DIR = Path(__file__).resolve().parents[2]
InProject = Annotated[Path, AfterValidator(lambda path: PROJECT_DIR / path)]
SECRETS_DIR = Path("/run/secrets")
"""Where containers find their secrets, each a file named as its variable."""
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_PASSWORDS = re.compile(r"password=[^&\s]*")


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
    storage_url: Annotated[str | None, BeforeValidator(lambda url: url or None)] = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9+.-]*://\S+$",
        description="s3://bucket/prefix, or another URL of object storage: `hydraulic train start` "
        "keeps windows, fits and checkpoints there, so nodes of a cluster need no shared disk",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="an admin key accepted beside the stored ones; at least 32 characters",
        min_length=32,
    )
    secrets_dir: Path = Field(
        default=SECRETS_DIR,
        description="directory of files that have settings for which there is no variable, each "
        "named as its variable, in any case: `hydraulic_dsn`",
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
    serve_config: InProject = Field(
        default=PROJECT_DIR / "serve_config.yaml",
        description="the Serve configuration, relative to the project; `hydraulic release` and the "
        "ingress change it",
    )
    rayservice: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="namespace/name of the RayService whose spec.serveConfigV2 `hydraulic "
        "release` and the ingress change, instead of a file",
    )
    kubernetes_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="the API server of the RayService; default that of the pod",
    )
    kubernetes_token_file: Path | None = Field(
        default=None,
        description="file with the token of the API server; default that of the pod's service "
        "account, or none when kubernetes_url is set",
    )
    kubernetes_ca_file: Path | None = Field(
        default=None,
        description="file with the authority of the API server (PEM); default that of the pod's "
        "service account, or the public authorities when kubernetes_url is set",
    )
    tls_certificate: InProject | None = Field(
        default=None,
        description="file with certificate, chain and key (PEM); HAProxy then answers HTTPS too",
    )
    tls_bind: str = Field(
        default="127.0.0.1:8443",
        pattern=r"^(\*|[0-9A-Fa-f.:\[\]]*):\d{1,5}$",
        description="address and port of HTTPS",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - of no directory
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the files of secrets last.

        Raises:
            SettingsError: the directory that a variable names is not there.
        """
        given = (dotenv_settings() | env_settings()).get("secrets_dir")
        directory = Path(given or SECRETS_DIR)
        sources = (init_settings, env_settings, dotenv_settings)
        if directory.is_dir() and os.access(directory, os.R_OK | os.X_OK):
            return (*sources, SecretsSettingsSource(settings_cls, directory))
        if given:
            raise SettingsError(
                "expected a directory with files of secrets that this user can read at "
                f"HYDRAULIC_SECRETS_DIR '{given}', found none: mount it, or remove the variable"
            )
        return sources  # no container, or one without secrets

    def at(self, dsn: str | None) -> Self:
        """Return these settings with another database; unchanged for None or an empty DSN."""
        return self.model_copy(update={"dsn": SecretStr(dsn)}) if dsn else self


def without_passwords(text: str) -> str:
    """Remove logins and `password=` from every address in a text, for errors and logs."""
    return _PASSWORDS.sub("password=***", _CREDENTIALS.sub("//", text))
