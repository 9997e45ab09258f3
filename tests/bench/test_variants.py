"""The variants bind: a constructor that Serve does not accept fails at import."""

from app.serving.ingress.config import DiagnosticsArgs
from tests.bench.variants import FaultyModelArgs, diagnostics, model


def test_ingress_without_metrics_binds_as_the_real_one():
    assert diagnostics(DiagnosticsArgs()) is not None


def test_faulty_version_binds_as_a_real_one():
    assert model(FaultyModelArgs(checkpoint="app/weights/1")) is not None
