"""The proxy of the chaos suite forwards, resets, refuses and delays."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.tcp_proxy import proxied
from tests.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(100):
                connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_bytes_are_forwarded_and_late_when_they_are_delayed(echo: tuple[str, int]):
    with proxied(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            proxy.delay_s = 0.5
            began = time.monotonic()
            client.sendall(b"two")
            assert client.recv(10) == b"two"
            assert time.monotonic() - began >= 0.5
        assert proxy.delayed_bytes == 3


def test_connections_are_reset_and_new_ones_refused(echo: tuple[str, int]):
    with proxied(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            proxy.refuses = True
            assert proxy.reset_all() == 2
            with pytest.raises(ConnectionResetError):
                client.recv(10)
        with (
            # the reset may come before the connection is handed out
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
        ):
            client.recv(10)
        wait_until(lambda: proxy.resets == 3, "three resets")
