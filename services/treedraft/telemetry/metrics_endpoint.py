"""The HTTP endpoint from which Prometheus scrapes a service's metrics.

It answers on threads of its own, so a scrape waits neither for the event loop
nor for an engine. The answer is always Prometheus' own text format: in the
others, prometheus_client takes the colon out of names such as `vllm:…`, which
then are not the names that dashboards look for.
"""

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PATH: Final = "/metrics"


def expose(registry: CollectorRegistry) -> bytes:
    """Return all metrics as `CONTENT_TYPE`."""
    return generate_latest(registry)


class MetricsEndpoint:
    """A listening endpoint, until closed."""

    def __init__(self, registry: CollectorRegistry, *, port: int, host: str = "127.0.0.1") -> None:
        """Listen at once; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """

        class Handler(_Handler):
            exposed = registry

        self._server = _Server((host, port), Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks a resolver for a name that nobody needs.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    exposed: CollectorRegistry
    timeout = 10.0  # seconds, for a peer that connects and says nothing

    def do_GET(self) -> None:
        """Answer with the metrics, at their path alone."""
        if self.path.split("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = expose(self.exposed)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""
