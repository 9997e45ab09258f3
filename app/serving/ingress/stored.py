"""A diagnosis as the row that the store keeps: one way for the service's journal and the fleet's runs."""

from app.diagnosis.build import DiagnosisFields
from app.store.diagnoses import StoredDiagnosis


def row_of(told: DiagnosisFields, body: bytes) -> StoredDiagnosis:
    """Return the row of a diagnosis.

    Args:
        told: its fields.
        body: the same as JSON, from `as_json`.
    """
    return StoredDiagnosis(
        told["diagnosis_id"],
        told["created_at"],
        told["equipment_id"],
        told["window"]["start"],
        told["window"]["end"],
        told["model_version"],
        told["status"],
        told["health"],
        body.decode(),
    )
