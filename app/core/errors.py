"""All errors that the project raises for causes outside itself.

HydraulicDiagnosticsError
├── InputError                the request, file or argument is invalid
│   ├── TopologyError         an equipment file or body, with all findings
│   ├── ReadingError          readings that can't be stored
│   ├── UnsupportedMedia      a body's type or encoding that the route does not read
│   └── WindowError           a window that can't be diagnosed
│       └── UntrainedDesign   the version can't answer for the machine's design
├── UnknownError              the request names something that does not exist
│   ├── UnknownEquipment
│   │   └── DeletedEquipment  it was deleted; registering it again restores it
│   ├── UnknownBaseline
│   ├── UnknownDiagnosis
│   ├── UnknownMaintenance
│   ├── UnknownVersion
│   └── UnknownTraining
├── AccessError               the caller lacks access
│   ├── Unauthenticated
│   └── Forbidden
├── ConflictError             what is stored does not allow the change
│   └── QuotaExceeded         as much is registered or stored as may be
├── RateExceeded              the caller has used up its limit; a later retry succeeds
├── LimitExceeded             a body, batch or graph is larger than the service accepts
├── BodyTimeout               the body of a request did not arrive in time
├── Overloaded                too much waits already; a retry may succeed
├── DeadlineExceeded          the request takes longer than the service works on one
├── CheckpointError           a checkpoint can't be read or its parts do not fit
├── SettingsError             invalid configuration
├── ReleaseError              a release failed; the previous state stays in force
│   ├── ReleaseConflict       another change of releases is in progress or has just been made
│   ├── ReleasesElsewhere     the configuration can't be changed from here
│   └── ReleasesUnavailable   what holds the configuration does not answer; a retry may succeed
├── TrainingRefused           a training can't be started now or here
├── ClusterUnavailable        the Ray cluster can't be reached; a retry may succeed
├── StoreError                the database refused a statement
│   └── StoreUnavailable      the database can't be reached; a retry may succeed
└── ModelUnavailable          no released version answered; a retry may succeed
    └── VersionBusy           a version works on earlier requests; it did not fail

A message says what was expected, what was found and what to do; fields hold its parts.
"""

from datetime import datetime

_LISTED_FINDINGS = 5


class HydraulicDiagnosticsError(Exception):
    """Root of all errors of the project.

    Args:
        message: what was expected, what was found and what to do.
        field: where in the request or file, dotted, with list indices in brackets; empty for the
            whole or for errors without a place.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InputError(HydraulicDiagnosticsError):
    """The request, file or argument is invalid."""


class TopologyError(InputError):
    """A topology has errors; the message lists the first few, `findings` has all.

    Args:
        where: the file or body.
        findings: (place, message) of every error in file order; at least one.
    """

    def __init__(self, where: str, findings: tuple[tuple[str, str], ...]) -> None:
        lines = "; ".join(
            f"{place}: {message}" if place else message
            for place, message in findings[:_LISTED_FINDINGS]
        )
        hidden = len(findings) - _LISTED_FINDINGS
        more = f"; and {hidden} more" if hidden > 0 else ""
        super().__init__(f"{where} has {len(findings)} error(s): {lines}{more}", findings[0][0])
        self.where = where
        self.findings = findings


class ReadingError(InputError):
    """Readings can't be stored."""


class UnsupportedMedia(InputError):
    """The route does not read bodies of this content type or content encoding."""


class WindowError(InputError):
    """A window can't be diagnosed."""


class UntrainedDesign(WindowError):
    """The version was not trained on the machine's design, and can't answer for it as it is."""


class UnknownError(HydraulicDiagnosticsError):
    """The request names something that does not exist."""


class UnknownEquipment(UnknownError):
    """No equipment is registered under this id."""

    def __init__(self, equipment_id: str, field: str = "equipment_id") -> None:
        super().__init__(
            f"expected a registered equipment, found '{equipment_id}', which is not: register its "
            f"topology with PUT /v1/equipment/{equipment_id}, or list the registered ones with "
            "GET /v1/equipment",
            field,
        )
        self.equipment_id = equipment_id


class DeletedEquipment(UnknownEquipment):
    """The equipment was deleted.

    Args:
        equipment_id: of the equipment.
        deleted_at: when, UTC.
    """

    def __init__(self, equipment_id: str, deleted_at: datetime) -> None:
        HydraulicDiagnosticsError.__init__(
            self,
            f"expected a registered equipment, found '{equipment_id}', which was deleted at "
            f"{deleted_at.isoformat(timespec='seconds')}: register its topology again with "
            f"PUT /v1/equipment/{equipment_id} to restore it with its readings, diagnoses and "
            "labels",
            "equipment_id",
        )
        self.equipment_id = equipment_id
        self.deleted_at = deleted_at


class UnknownBaseline(UnknownError):
    """The machine has no baseline, or none of this id."""


class UnknownDiagnosis(UnknownError):
    """No diagnosis is stored under this id."""


class UnknownMaintenance(UnknownError):
    """A machine has no record of maintenance with this number."""

    def __init__(self, equipment_id: str, maintenance_id: int) -> None:
        super().__init__(
            f"expected the number of a record of maintenance of '{equipment_id}', found "
            f"{maintenance_id}: list them with GET /v1/equipment/{equipment_id}/maintenance",
            "maintenance_id",
        )


class UnknownVersion(UnknownError):
    """No model version of this name is released."""


class UnknownTraining(UnknownError):
    """No training has this id."""


class AccessError(HydraulicDiagnosticsError):
    """The caller lacks access."""


class Unauthenticated(AccessError):
    """The request has no API key, or an unknown one."""


class Forbidden(AccessError):
    """The API key lacks the required scope."""


class ConflictError(HydraulicDiagnosticsError):
    """What is stored does not allow the change."""


class QuotaExceeded(ConflictError):
    """As much is registered or stored as the installation allows."""


class RateExceeded(HydraulicDiagnosticsError):
    """The caller has used up a limit of its key.

    Args:
        message: which limit, and what to do.
        retry_after_s: when some of it is free again.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitExceeded(HydraulicDiagnosticsError):
    """A body, batch or graph is larger than the service accepts."""


class BodyTimeout(HydraulicDiagnosticsError):
    """The body of a request did not arrive in time."""


class Overloaded(HydraulicDiagnosticsError):
    """Too many requests wait already; a retry may succeed."""


class DeadlineExceeded(HydraulicDiagnosticsError):
    """The request takes longer than the service works on one; it may be too heavy."""


class CheckpointError(HydraulicDiagnosticsError):
    """A checkpoint can't be read, or its parts do not fit."""


class SettingsError(HydraulicDiagnosticsError):
    """The configuration is invalid."""


class ReleaseError(HydraulicDiagnosticsError):
    """A release failed or was cancelled; the previous state stays in force."""


class ReleaseConflict(ReleaseError):
    """Another change of releases is in progress, or was made since the file was read."""


class ReleasesElsewhere(ReleaseError):
    """The configuration is not here, or can't be written here."""


class ReleasesUnavailable(ReleaseError):
    """What holds the configuration does not answer; a retry may succeed."""


class TrainingRefused(HydraulicDiagnosticsError):
    """A training can't be started: what it needs is not installed, or too many run."""


class ClusterUnavailable(HydraulicDiagnosticsError):
    """The Ray cluster can't be reached, or did not do what was expected; a retry may succeed."""


class StoreError(HydraulicDiagnosticsError):
    """The database refused a statement."""


class StoreUnavailable(StoreError):
    """The database or the object storage can't be reached; a retry may succeed."""


class RowsRefused(StoreError):
    """The database can't hold the rows themselves, however often they are written."""


class ModelUnavailable(HydraulicDiagnosticsError):
    """No released version answered; a retry may succeed."""


class VersionBusy(ModelUnavailable):
    """A version works on earlier requests for longer than this one can wait; it did not fail."""
