"""What every answer carries: a request id, security headers, and an end to unforeseen errors."""

import re

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.kit.clock import Clock
from trunkline.kit.ids import new_id
from trunkline.web.errors import is_api, unexpected

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # No other site may embed or read what is served here, not even by <audio>.
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_API = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def page_policy(style_nonce: str | None = None) -> str:
    """What a page may load: this server's own files; and a style element that has *style_nonce*."""
    styles = "'self'" + (f" 'nonce-{style_nonce}'" if style_nonce else "")
    return (
        f"default-src 'none'; style-src {styles}; script-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


_PAGE = {
    "Content-Security-Policy": page_policy(),
    "Cross-Origin-Opener-Policy": "same-origin",
    # May be kept for the way back, but is asked for anew.
    "Cache-Control": "private, no-cache",
}

HEAD = "trunkline.head"
"""In the scope of a HEAD request, which routes see as GET; the server leaves out the body."""


class Envelope:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Request(scope).headers.get("x-request-id", "")
        known = _REQUEST_ID.fullmatch(given)
        request_id = given if known else new_id("req", now=self._clock())
        # A copy: the server must still see HEAD to know that no body may follow.
        scope = {**scope, "state": {**scope.get("state", {}), "request_id": request_id}}
        if scope["method"] == "HEAD":
            scope |= {"method": "GET", HEAD: True}
        usual = {**_ALWAYS, **(_API if is_api(scope["path"]) else _PAGE)}
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in usual.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:
                if started:  # too late for another answer; the server cuts the connection
                    raise
                await unexpected(Request(scope), error)(scope, receive, send_with_headers)
