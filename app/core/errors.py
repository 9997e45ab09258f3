"""Every error that the project raises for a cause outside itself.

HydraulicDiagnosticsError
├── InputError                what a caller sent is wrong; `field` names the place
│   ├── TopologyError         an equipment file or body, with all findings
│   ├── ReadingError          readings that can't be taken
│   └── WindowError           a window that can't be diagnosed
├── UnknownError              something named does not exist
│   ├── UnknownEquipment
│   ├── UnknownDiagnosis
│   └── UnknownVersion
├── AccessError               who asks may not
│   ├── Unauthenticated
│   └── Forbidden
├── LimitExceeded             a body, batch or graph beyond what the service takes
├── CheckpointError           a checkpoint that can't be read or does not fit
├── SettingsError             configuration that can't be used
├── ReleaseError              a release that can't be done; what ran before goes on
│   ├── ReleaseConflict       somebody else changes releases at the same moment, or just did
│   └── ReleasesElsewhere     the file that says what runs can't be changed from here
├── StoreError                the database refused
│   └── StoreUnavailable      the database can't be reached; the same call may go through later
└── ModelUnavailable          no released version answered; the same call may go through later

Invariant: a message says what was expected, what was found and what to do; fields hold the parts of it.
"""

_TOLD_FINDINGS = 5


class HydraulicDiagnosticsError(Exception):
    """Root of all errors of the project.

    Args:
        message: what was expected, what was found and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputError(HydraulicDiagnosticsError):
    """What a caller sent can't be used.

    Args:
        message: what was expected, what was found and what to do.
        field: the place in what was sent, dotted, with list positions in brackets; empty when it is the whole.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class TopologyError(InputError):
    """An equipment's topology has errors; the message tells the first few, `findings` holds all.

    Args:
        where: the file or body that was read.
        findings: (place, message) of every error, in the order of the file; at least one.
    """

    def __init__(self, where: str, findings: tuple[tuple[str, str], ...]) -> None:
        lines = "; ".join(f"{place}: {message}" for place, message in findings[:_TOLD_FINDINGS])
        more = (
            f"; and {len(findings) - _TOLD_FINDINGS} more" if len(findings) > _TOLD_FINDINGS else ""
        )
        super().__init__(f"{where} has {len(findings)} error(s): {lines}{more}", findings[0][0])
        self.where = where
        self.findings = findings


class ReadingError(InputError):
    """Readings can't be taken."""


class WindowError(InputError):
    """A window can't be diagnosed."""


class UnknownError(HydraulicDiagnosticsError):
    """Something that was named does not exist.

    Args:
        message: what was looked for and what to do.
        field: the place in the request that named it.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownEquipment(UnknownError):
    """No equipment is registered under this id."""

    def __init__(self, equipment_id: str, field: str = "equipment_id") -> None:
        super().__init__(
            f"expected a registered equipment, found '{equipment_id}', which is not: register its topology with "
            f"PUT /v1/equipment/{equipment_id}, or list what there is with GET /v1/equipment",
            field,
        )
        self.equipment_id = equipment_id


class UnknownDiagnosis(UnknownError):
    """No diagnosis is stored under this id."""


class UnknownVersion(UnknownError):
    """No model version of this name is released."""


class AccessError(HydraulicDiagnosticsError):
    """Who asks may not do this."""


class Unauthenticated(AccessError):
    """No key, or one that is not known."""


class Forbidden(AccessError):
    """A known key without the needed scope."""


class LimitExceeded(HydraulicDiagnosticsError):
    """A body, batch or graph is larger than the service takes.

    Args:
        message: the limit, what was found and what to do.
        field: the place in what was sent; empty when it is the whole.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class CheckpointError(HydraulicDiagnosticsError):
    """A checkpoint can't be read, or its parts do not fit together."""


class SettingsError(HydraulicDiagnosticsError):
    """Configuration that can't be used."""


class ReleaseError(HydraulicDiagnosticsError):
    """A release can't be done, or was given up; what ran before goes on."""


class ReleaseConflict(ReleaseError):
    """Somebody else changes releases at the same moment, or did since the file was read."""


class ReleasesElsewhere(ReleaseError):
    """The file that says what runs is not here, or can't be written here."""


class StoreError(HydraulicDiagnosticsError):
    """The database refused a statement."""


class StoreUnavailable(StoreError):
    """The database can't be reached now; the same call may go through later."""


class ModelUnavailable(HydraulicDiagnosticsError):
    """No released version answered; the same call may go through later."""
