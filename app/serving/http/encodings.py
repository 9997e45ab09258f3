"""Undoes content encodings of request bodies: gzip and zstd, never to more than a limit."""

import gzip
import sys
import zlib
from io import BytesIO

from app.core.errors import InputError, LimitExceeded

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODINGS = ("gzip", "zstd")
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
"""Windows of at most 8 MiB, which is what RFC 9659 allows in HTTP."""


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the encoding of a body.

    Args:
        body: as it was sent.
        encoding: one of `ENCODINGS`.
        limit: bytes, after decompression.

    Raises:
        InputError: the body is not of its encoding.
        LimitExceeded: it is longer than `limit`.
    """
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
