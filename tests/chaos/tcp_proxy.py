"""A TCP proxy between the service and its database, in a thread of the test's own process.

It forwards bytes until a fault is set: every connection is reset, or bytes wait. Its target can be
changed, as an address that moves to a standby is.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection that is reset when it is closed."""


class TcpProxy:
    """Forwards connections of a local port to a target.

    Args:
        target: host and port.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.delay_s = 0.0
        """Bytes of the database arrive this much later."""
        self.refuses = False
        """New connections are reset at once."""
        self.resets = 0
        """Connections that were reset on purpose."""
        self.delayed_bytes = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def reset_all(self) -> int:
        """Reset every connection; return how many there were."""
        assert self._loop is not None
        done = asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop)
        return done.result(10)

    async def _reset_all(self) -> int:
        count = 0
        for writer in list(self._writers):
            count += _reset(writer)
        self.resets += count
        return count

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.resets += _reset(writer)
            return
        try:
            to_reader, to_writer = await asyncio.wait_for(asyncio.open_connection(*self.target), 5)
        except (OSError, TimeoutError):
            self.resets += _reset(writer)
            return
        self._writers |= {writer, to_writer}
        try:
            await asyncio.gather(
                self._copy(reader, to_writer, delayed=False),
                self._copy(to_reader, writer, delayed=True),
            )
        finally:
            self._writers -= {writer, to_writer}
            writer.close()
            to_writer.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                if delayed and self.delay_s:
                    self.delayed_bytes += len(data)
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def run(self) -> None:
        """Serve until `stop`."""
        asyncio.run(self._serve())

    def wait_ready(self) -> None:
        """Wait until the port is known."""
        assert self._ready.wait(10)

    def stop(self) -> None:
        """Close all connections and end the thread's loop."""
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)


def _reset(writer: asyncio.StreamWriter) -> int:
    transport = writer.transport
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None or transport.is_closing():
        return 0
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    return 1


@contextlib.contextmanager
def proxied(target: tuple[str, int]) -> Iterator[TcpProxy]:
    """Run a proxy to a target."""
    proxy = TcpProxy(target)
    thread = threading.Thread(target=proxy.run, name="tcp-proxy", daemon=True)
    thread.start()
    proxy.wait_ready()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
