"""Bodies as routes hand them on, made from bytes."""

from collections.abc import AsyncIterator

from app.serving.http.bodies import Upload
from app.serving.http.routes.readings import MAX_READINGS_BYTES


def upload(
    body: bytes, content_type: str = "application/json", encoding: str = "", part: int = 65_536
) -> Upload:
    """Return a body that arrives in parts of a number of bytes."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, max(1, len(body)), part):
            yield body[start : start + part]

    return Upload(parts(), content_type, encoding, MAX_READINGS_BYTES)
