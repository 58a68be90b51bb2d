"""The files of the page, with the headers that keep it to itself.

The policy allows what this coordinator serves and nothing else: no inline
script, no other host, no framing. Text of a model that found its way into the
page as markup could do nothing with it.
"""

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, answered 304 where unchanged
}


class ConsoleFiles(StaticFiles):
    """Serves the page."""

    def __init__(self) -> None:
        """Serve the files that come with the package."""
        super().__init__(directory=STATIC, html=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with the headers of the page."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
