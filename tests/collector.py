"""A collector of OpenTelemetry spans that keeps them in memory."""

import contextlib
import gzip
import threading
from collections.abc import Collection, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.waiting import wait_until


class Collector:
    """The received spans, each with the name of the service that sent it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[tuple[str, Span]] = []

    def take(self, body: bytes) -> None:
        """Keep the spans of an exporter's request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = [
                item.value.string_value
                for item in resource.resource.attributes
                if item.key == "service.name"
            ]
            self.spans += [
                (names[0], span) for scope in resource.scope_spans for span in scope.spans
            ]

    def of_trace(
        self, trace_id: str, names: Collection[str], limit_s: float = 60.0
    ) -> dict[str, Span]:
        """Wait until a trace has spans of these names, and return all of its spans by name."""

        def arrived() -> dict[str, Span]:
            found = {span.name: span for _, span in self.spans if span.trace_id.hex() == trace_id}
            return found if found.keys() >= set(names) else {}

        return wait_until(arrived, f"spans of trace {trace_id}: {sorted(names)}", limit_s)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(
                gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            )
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    collector = Collector(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
