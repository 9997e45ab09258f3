"""Diagnoses as rows of the store, from their schema."""

from app.diagnosis.pipeline import row_of
from app.schemas.diagnosis import Diagnosis
from app.store.diagnoses import StoredDiagnosis


def stored_row(item: Diagnosis) -> StoredDiagnosis:
    """Return the row that the service would store of a diagnosis."""
    return row_of(item, item.to_json())
