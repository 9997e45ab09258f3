"""TLS to the database, by parameters of the DSN.

The embedded server is built without TLS, so a proxy in front of it answers as PostgreSQL does.
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.core.errors import StoreError
from app.store.pool import PoolLimits
from app.store.store import Store
from tests.certificates import Certificates, make_certificates

LIMITS = PoolLimits(acquire_timeout_s=20.0, retry_s=0.0)
PASSWORD = "correct-horse-battery"
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while part := await source.read(65536):
            target.write(part)
            await target.drain()
    target.close()


class Proxy:
    """Ends TLS as PostgreSQL does: an answer `S` to the request for it, then the handshake.

    Args:
        dsn: of a server on a local socket.
        certificates: of the proxy.
    """

    def __init__(self, dsn: str, certificates: Certificates) -> None:
        found = urlsplit(dsn)
        query = parse_qs(found.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificates.server)
        self.database = found.path.removeprefix("/")
        self.encrypted = self.plain = 0
        self.refuses_password = False
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.address = f"postgresql://hydraulic:{PASSWORD}@localhost:{port}/{self.database}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) != _SSL_REQUEST:
                self.plain += 1
                self._refuse(writer, "28000", "no pg_hba.conf entry, no encryption")
                return
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.encrypted += 1
            if self.refuses_password:
                await reader.read(1000)
                self._refuse(writer, "28P01", "password authentication failed")
                return
            there, back = await asyncio.open_unix_connection(self._socket)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()

    @staticmethod
    def _refuse(writer: asyncio.StreamWriter, code: str, text: str) -> None:
        body = b"SFATAL\0VFATAL\0" + f"C{code}\0M{text}\0\0".encode()
        writer.write(b"E" + struct.pack("!i", len(body) + 4) + body)
        writer.close()


@pytest.fixture
async def proxy(database_dsn: str, certificates: Certificates) -> AsyncIterator[Proxy]:
    async with Proxy(database_dsn, certificates).running() as started:
        yield started


async def test_store_works_over_a_connection_that_it_verified(
    proxy: Proxy, certificates: Certificates
):
    dsn = f"{proxy.address}?sslmode=verify-full&sslrootcert={certificates.authority}"
    store = Store(dsn, LIMITS)
    assert await store.migrate() in ("plain", "timescale")
    assert (await store.create_key("a", ["read"])).key.name == "a"
    await store.close()
    assert proxy.encrypted > 1
    assert proxy.plain == 0


async def test_server_that_can_not_be_verified_is_refused(
    proxy: Proxy, certificates: Certificates, tmp_path: Path
):
    other = make_certificates(tmp_path).authority
    verified = f"sslmode=verify-full&sslrootcert={certificates.authority}"
    refused = {
        "another authority": f"{proxy.address}?sslmode=verify-full&sslrootcert={other}",
        "another name": f"{proxy.address}?{verified}".replace("@localhost", "@127.0.0.2"),
        "no TLS": f"{proxy.address}?sslmode=disable",
    }
    for name, dsn in refused.items():
        store = Store(dsn, LIMITS)
        with pytest.raises(StoreError) as error:
            await store.ping()
        assert PASSWORD not in str(error.value), name
        await store.close()


async def test_password_is_in_no_error_or_log_of_a_refused_one(
    proxy: Proxy, certificates: Certificates, caplog: pytest.LogCaptureFixture
):
    proxy.refuses_password = True
    store = Store(f"{proxy.address}?sslmode=verify-full&sslrootcert={certificates.authority}")
    caplog.set_level("DEBUG")
    with pytest.raises(
        StoreError, match="a user and a password that the database accepts"
    ) as error:
        await store.ping()
    assert PASSWORD not in f"{error.value}{error.value.__cause__}{caplog.text}"
    await store.close()
