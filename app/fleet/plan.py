"""The plan of a run over the fleet: its time, machines, versions and thresholds.

A plan is made when a run is first started and stored under the run's name, so that a run that was
stopped goes on with the same releases and weights although `serve_config.yaml` changed meanwhile.
A run's plan never changes. It names only checkpoints whose files agree with their manifest.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from app.checkpoint.locate import find_checkpoint
from app.checkpoint.manifest import WEIGHTS, read_manifest
from app.core.errors import InputError, SettingsError, UnknownVersion
from app.core.settings import PROJECT_DIR, Settings
from app.diagnosis.input_quality import Thresholds
from app.schemas.places import shown
from app.schemas.times import AwareTime
from app.serving.ingress.config import IngressConfig, ModelArgs
from app.serving.ingress.traffic import Release, Traffic
from app.serving.ingress.windows import CLOCK_SKEW
from app.store.fleet import Selection

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GLOB = re.compile(r"[A-Za-z0-9._:*?-]{1,128}")
_LIKE = {"*": "%", "?": "_", "_": r"\_"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunRequest(_Strict):
    """The user's options of a run; None where an option was not given.

    `equipment` is a pattern of ids with * and ?, or the path of a file with one id a line, whose
    SHA-256 is `ids_sha256`.
    """

    equipment: str | None = None
    ids_sha256: str | None = None
    design: str | None = None
    model_version: str | None = None
    checkpoint: str | None = None


class Place(_Strict):
    """A version's checkpoint, relative to the project or absolute, and its weights' SHA-256."""

    directory: str
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Plan(_Strict):
    """All that determines a run's diagnoses except the readings; `checkpoints` by version."""

    at: AwareTime
    request: RunRequest = Field(validation_alias=AliasChoices("request", "asked"))
    """Stored as `asked` by earlier versions."""
    traffic: Traffic
    checkpoints: Mapping[str, Place]
    thresholds: Thresholds

    @property
    def forced(self) -> bool:
        """Whether the user chose the version, not traffic."""
        return self.request.model_version is not None or self.request.checkpoint is not None

    @property
    def selection(self) -> Selection:
        """Which registered machines; a file's ids are not in it."""
        pattern = None if self.request.ids_sha256 is not None else self.request.equipment
        return Selection(None if pattern is None else like_pattern(pattern), self.request.design)


class Released(NamedTuple):
    """Weights, thresholds and checkpoint directories of the releases in `serve_config.yaml`."""

    traffic: Traffic
    thresholds: Thresholds
    directories: Mapping[str, str]


def make_plan(request: RunRequest, at: datetime | None, config: Path, now: datetime) -> Plan:
    """Make the plan of a run that begins now.

    Args:
        request: of the user.
        at: time that the run uses as its clock; None for now.
        config: path of `serve_config.yaml`.
        now: UTC.

    Raises:
        InputError: the time is in the future, or both a version and a checkpoint are given.
        SettingsError: the configuration can't be read.
        UnknownVersion: the given version is not released.
        CheckpointError: a checkpoint is not what its manifest says.
    """
    if at is not None and at > now + CLOCK_SKEW:
        raise InputError(
            f"expected a time up to now ({now.isoformat(timespec='seconds')}), found "
            f"{at.isoformat()}: leave --at out for now"
        )
    if request.model_version is not None and request.checkpoint is not None:
        raise InputError(
            "expected either --model-version or --checkpoint, found both: leave one out"
        )
    released = read_released(config)
    traffic, directories = released.traffic, released.directories
    if request.checkpoint is not None:
        version = read_manifest(PROJECT_DIR / request.checkpoint).version
        traffic = _all_to(version, request.checkpoint)
        directories = {version: request.checkpoint}
    elif request.model_version is not None:
        forced = traffic.find(request.model_version)
        if forced is None:
            raise UnknownVersion(
                f"expected a released version, found {shown(request.model_version)}: {config} has "
                f"{', '.join(directories)}; or name a directory with --checkpoint"
            )
        traffic = _all_to(forced.version, forced.application)
    checkpoints = {
        release.version: _place(directories[release.version]) for release in traffic.in_service
    }
    return Plan(
        at=at or now,
        request=request,
        traffic=traffic,
        checkpoints=checkpoints,
        thresholds=released.thresholds,
    )


def read_released(config: Path) -> Released:
    """Read releases, thresholds and checkpoints out of `serve_config.yaml`.

    Raises:
        SettingsError: it can't be read, or a release has no application with a checkpoint.
    """
    try:
        data: Any = yaml.safe_load(config.read_bytes())
        applications = {item["name"]: item for item in data["applications"]}
        given = next(
            deployment["user_config"]
            for item in applications.values()
            for deployment in item.get("deployments", ())
            if "traffic" in deployment.get("user_config", {})
        )
        ingress = IngressConfig.model_validate(given)
        directories = {
            release.version: ModelArgs.model_validate(
                applications[release.application]["args"]
            ).checkpoint
            for release in ingress.traffic.releases
        }
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(
            f"expected the service's configuration in '{config}', found: {error}"
        ) from error
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise SettingsError(
            "expected applications, one with a user_config that has `traffic`, and one for each "
            f"release in '{config}', found a file without ({type(error).__name__}: {error}): name "
            "the service's configuration with --config"
        ) from error
    return Released(traffic=ingress.traffic, thresholds=ingress.thresholds, directories=directories)


def _all_to(version: str, application: str) -> Traffic:
    return Traffic(releases=(Release(version=version, application=application, weight=100.0),))


def _place(directory: str) -> Place:
    manifest = read_manifest(find_checkpoint(directory, Settings()))
    return Place(directory=directory, weights_sha256=manifest.sha256[WEIGHTS])


def check_options(name: str, plan: Plan, request: RunRequest, at: datetime | None) -> None:
    """Check that the options of a run are those that it began with; an option may be left out.

    Raises:
        InputError: an option differs.
    """
    pairs = [("at", at, plan.at)]
    pairs += [
        (field, getattr(request, field), getattr(plan.request, field))
        for field in RunRequest.model_fields
    ]
    for field, now, before in pairs:
        if now is not None and now != before:
            option = f"--{field.replace('_', '-')}"
            if field == "ids_sha256":
                option = "the ids in the file of --equipment"
            raise InputError(
                f"expected {option} as run '{name}' began with ({before}), found {now}: leave it "
                "out to go on with the run, or give another --run to begin a new one"
            )


def run_name(given: str | None, request: RunRequest, at: datetime) -> str:
    """Return a run's name: the one given, else one derived from the time and the options.

    Raises:
        InputError: the name has other characters than letters, digits and `._-`, or more than 64.
    """
    if given is None:
        digest = hashlib.sha256(
            f"{at.isoformat()} {request.model_dump_json()}".encode()
        ).hexdigest()
        return f"fleet-{at:%Y%m%dT%H%M%SZ}-{digest[:8]}"
    if _RUN_NAME.fullmatch(given) is None:
        raise InputError(
            "expected a name of letters, digits and ._- (at most 64) as --run, found "
            f"{shown(given)}"
        )
    return given


def like_pattern(glob: str) -> str:
    r"""Return a pattern with * and ? as one for LIKE, such as `rig\_%` for `rig_*`.

    Raises:
        InputError: it has characters that no id has.
    """
    if _GLOB.fullmatch(glob) is None:
        raise InputError(
            "expected equipment ids with * and ? in place of any characters, or a file with one id "
            f"a line, as --equipment, found {shown(glob)}, which is neither"
        )
    return "".join(_LIKE.get(character, character) for character in glob)


def read_ids(path: Path) -> tuple[tuple[str, ...], str]:
    """Read a file with one equipment id a line; skip empty lines, comments (#) and repeated ids.

    Returns:
        The ids, and the SHA-256 of the file.

    Raises:
        InputError: it can't be read, or holds no id.
    """
    try:
        body = path.read_bytes()
        lines = [line.strip() for line in body.decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected a text file with one equipment id a line, found '{path}': {error}"
        ) from error
    ids = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not ids:
        raise InputError(
            f"expected at least one equipment id in '{path}', found none: give one a line"
        )
    if any("\0" in line for line in ids):
        raise InputError(
            f"expected a text file with one equipment id a line, found '{path}' with zero bytes"
        )
    return ids, hashlib.sha256(body).hexdigest()
