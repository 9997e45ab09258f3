"""Bodies that may be large: taken in parts as they arrive, with their type and encoding."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from fastapi import Request

from app.core.errors import UnsupportedMedia
from app.schemas.places import shown
from app.serving.http.encodings import ENCODINGS
from app.serving.http.routes.common import body_parts, check_announced


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that arrives.

    Args:
        parts: of the body, as it is sent.
        content_type: of the body.
        encoding: one of `ENCODINGS`, or empty.
        limit: bytes, as it is sent and after decompression.
    """

    parts: AsyncIterator[bytes]
    content_type: str
    encoding: str
    limit: int

    @classmethod
    def of(cls, request: Request, limit: int) -> Self:
        """Return the body of a request, of which nothing was read yet.

        Args:
            request: of a client.
            limit: bytes.

        Raises:
            UnsupportedMedia: its encoding is none of `ENCODINGS`.
            LimitExceeded: it is announced as longer than `limit`.
        """
        named = request.headers.get("content-encoding", "")
        encoding = named.strip().lower().removeprefix("x-")
        if encoding not in ("", "identity", *ENCODINGS):
            raise UnsupportedMedia(
                f"expected a body without Content-Encoding, or one of {', '.join(ENCODINGS)}, "
                f"found {shown(named)}: send another",
                "content-encoding",
            )
        check_announced(request, limit)
        return cls(
            body_parts(request),
            request.headers.get("content-type", ""),
            encoding if encoding in ENCODINGS else "",
            limit,
        )
