"""The plan of a run over the fleet: its time, machines, versions and thresholds.

A plan is made when a run is first started (`app.fleet.released`) and stored under the run's name,
so that a run that was stopped goes on with the same releases and weights although
`serve_config.yaml` changed meanwhile. A run's plan never changes.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from app.core.errors import InputError
from app.diagnosis.input_quality import Thresholds
from app.schemas.places import shown
from app.schemas.times import AwareTime
from app.serving.ingress.traffic import Traffic
from app.store.fleet import Selection

_FROZEN = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GLOB = re.compile(r"[A-Za-z0-9._:*?-]{1,128}")
_LIKE = {"*": "%", "?": "_", "_": r"\_"}


class RunRequest(BaseModel):
    """The user's options of a run; None where an option was not given.

    `equipment` is a pattern of ids with * and ?, or the path of a file with one id a line, whose
    SHA-256 is `ids_sha256`.
    """

    model_config = _FROZEN

    equipment: str | None = None
    ids_sha256: str | None = None
    design: str | None = None
    model_version: str | None = None
    checkpoint: str | None = None


class Place(BaseModel):
    """A version's checkpoint, relative to the project or absolute, and its weights' SHA-256."""

    model_config = _FROZEN

    directory: str
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Plan(BaseModel):
    """All that determines a run's diagnoses except the readings; `checkpoints` by version."""

    model_config = _FROZEN

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
            option = (
                "the ids in the file of --equipment"
                if field == "ids_sha256"
                else f"--{field.replace('_', '-')}"
            )
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
