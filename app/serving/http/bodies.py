"""Reads compressed request bodies: gzip and zstd, never more than a limit after decompression."""

import asyncio
import gzip
import sys
import zlib
from io import BytesIO

from fastapi import Request

from app.core.errors import InputError, LimitExceeded, UnsupportedMedia
from app.schemas.places import shown
from app.serving.http.routes.common import read_body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODINGS = ("gzip", "zstd")
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
"""Windows of at most 8 MiB, which is what RFC 9659 allows in HTTP."""


async def read_encoded_body(request: Request, limit: int) -> bytes:
    """Read a request's body and undo its Content-Encoding.

    Args:
        request: whose body was not read yet.
        limit: bytes, of the body as it is sent and after decompression.

    Raises:
        UnsupportedMedia: the encoding is none of `ENCODINGS`.
        InputError: the body is not of its encoding.
        LimitExceeded: the body is longer than `limit`.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    named = request.headers.get("content-encoding", "")
    encoding = named.strip().lower().removeprefix("x-")
    if encoding not in ("", "identity", *ENCODINGS):
        raise UnsupportedMedia(
            f"expected a body without Content-Encoding, or one of {', '.join(ENCODINGS)}, found "
            f"{shown(named)}: send another",
            "content-encoding",
        )
    body = await read_body(request, limit)
    if encoding not in ENCODINGS:
        return body
    # decompression releases the interpreter lock
    return await asyncio.to_thread(_decompressed, body, encoding, limit)


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    try:
        with (
            gzip.GzipFile(fileobj=BytesIO(body))
            if encoding == "gzip"
            else zstd.ZstdFile(BytesIO(body), options=_ZSTD_OPTIONS)
        ) as file:
            found = file.read(limit + 1)
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise InputError(
            f"expected a body of {encoding}, found one that is cut off or damaged, or needs more "
            "memory than allowed: compress it again",
            "content-encoding",
        ) from error
    if len(found) > limit:
        raise LimitExceeded(
            f"expected at most {limit} bytes after decompression, found more: send it in parts",
            "body",
        )
    return found
