"""Diagnoses as rows of the store, from their schema."""

from typing import cast

from app.diagnosis.build import DiagnosisFields
from app.diagnosis.pipeline import row_of
from app.schemas.diagnosis import Diagnosis
from app.store.diagnoses import StoredDiagnosis


def stored_row(item: Diagnosis) -> StoredDiagnosis:
    """Return the row that the service would store of a diagnosis."""
    return row_of(cast("DiagnosisFields", item.model_dump()), item.model_dump_json().encode())
