"""The HTTP endpoint from which Prometheus scrapes a service's metrics.

It answers on threads of its own, so a scrape waits neither for the event loop
nor for an engine.
"""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server


class MetricsEndpoint:
    """A listening endpoint, until closed."""

    def __init__(self, registry: CollectorRegistry, *, port: int, host: str = "127.0.0.1") -> None:
        """Listen at once; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
