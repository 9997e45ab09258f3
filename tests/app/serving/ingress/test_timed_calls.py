import pytest

from app.core.errors import CheckpointError, ModelUnavailable
from app.serving.ingress.version_router import VersionRouter
from tests.app.serving.conftest import LocalClient, RemoteError


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (KeyError("of theirs"), "found an internal error: the log"),
        (CheckpointError("expected a spec"), "found an error: expected a spec"),
    ],
)
async def test_text_of_a_foreign_error_stays_in_the_log(
    versions: VersionRouter,
    local: LocalClient,
    cause: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
):
    async def fail() -> None:
        raise RemoteError(cause)

    monkeypatch.setattr(local.servers["model-1"], "probe", fail)
    with pytest.raises(ModelUnavailable) as caught:
        await versions.probe(versions.traffic.releases[0])
    assert reason in caught.value.message
    assert "10.0.0.7" not in caught.value.message
    assert "/secret" not in caught.value.message
