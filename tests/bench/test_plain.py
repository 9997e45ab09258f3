"""The service that metrics are measured against can be bound; a constructor that Serve does not take fails at the import."""

from app.serving.ingress.config import DiagnosticsArgs
from tests.bench.plain import diagnostics


def test_service_without_metrics_binds_as_the_real_one():
    assert diagnostics(DiagnosticsArgs()) is not None
