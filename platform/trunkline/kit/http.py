"""The one place where our own code gets an HTTP client, and the one way it asks with it.

A stranger's server is on the other end: it may be slow on purpose, send without end or answer with
nonsense. Whatever it does, an exchange ends in time and keeps only a few kilobytes.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

_MAX_HEADERS = 50
_MAX_HEADER_CHARS = 1_000


class HttpFailed(Exception):
    """No answer came; the message says why, in words for people."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    """Names in lower case; at most 50, each value at most 1,000 characters."""
    body: bytes
    """The first bytes of the body as they were sent, compressed or not."""
    problem: str | None = None
    """Why the body did not come to its end, in words. The status was answered all the same."""


def open_client(*, connect: timedelta, total: timedelta, max_connections: int) -> httpx.AsyncClient:
    """A pool of connections that follows no redirect, keeps no cookie and reads no environment.

    *connect* bounds the making of a connection, *total* each wait for bytes; use :func:`exchange`,
    which bounds the sum.
    """
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(total.total_seconds(), connect=connect.total_seconds()),
        limits=httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        ),
        # Two receivers of one host must not see each other's cookies.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


async def exchange(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes,
    total: timedelta,
    max_body_bytes: int,
) -> Reply:
    """Ask once, and return the answer with at most *max_body_bytes* of its body.

    All of it together takes at most *total*. Raises HttpFailed when no status came by then.
    """
    status, kept = 0, bytearray()
    answered: dict[str, str] = {}
    problem = None
    try:
        async with (
            asyncio.timeout(total.total_seconds()),
            client.stream(
                method,
                url,
                # A compressed answer could unpack to any size.
                headers={"accept-encoding": "identity", **headers},
                content=content,
            ) as response,
        ):
            status, answered = response.status_code, _shortened(response.headers)
            async for chunk in response.aiter_raw():
                kept += chunk
                if len(kept) >= max_body_bytes:
                    break
    except TimeoutError:
        within = f"within {total.total_seconds():g} s"
        problem = f"the body did not end {within}" if status else f"no answer came {within}"
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        problem = _in_words(error)
    if not status:
        raise HttpFailed(problem or "no answer came")
    return Reply(status, answered, bytes(kept[:max_body_bytes]), problem)


def _shortened(headers: httpx.Headers) -> dict[str, str]:
    some = list(headers.items())[:_MAX_HEADERS]
    return {name: value[:_MAX_HEADER_CHARS] for name, value in some}


def _in_words(error: Exception) -> str:
    for cause in _chain(error):
        match cause:
            case ConnectionRefusedError():
                return "the connection was refused; nothing listens at that address"
            case socket.gaierror():
                return "the host name was not found"
            case ssl.SSLCertVerificationError():
                return f"the certificate is not trusted: {cause.verify_message}"
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or 'the receiver does not speak it'}"
    match error:
        case httpx.ConnectTimeout():
            return "no connection came about in time"
        case httpx.TimeoutException():
            return "no bytes came for too long"
        case httpx.ConnectError():
            return "the address cannot be reached"
        case httpx.RemoteProtocolError():
            return f"the answer is not HTTP as it should be: {error}"[:200]
        case httpx.ReadError() | httpx.WriteError():
            return "the connection broke off"
    return f"the request could not be made ({type(error).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """*error* and everything it came from, groups opened; each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        waiting += [cause for cause in (current.__cause__, current.__context__) if cause]
