"""The one place where our own code asks strangers' servers, and the one way it does.

The other end may be slow on purpose, send without end or answer with nonsense, and its name may lead into
our own network. Whatever it does, an exchange ends in time and keeps only a few kilobytes; whatever its name
says, no connection is made to an address that is not public, unless it was allowed.

It works on httpcore, the engine of httpx: redirects, cookies and proxies of the environment are not
switched off here, they do not exist.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import certifi
import httpcore
import httpx

_MAX_HEADERS = 50
_MAX_HEADER_CHARS = 1_000
_KEPT_OPEN_S = 4.0
"""Many servers close an idle connection after 5 s; ours is gone before."""
_RESOLVERS = 32
"""Names asked for at the same time; a name server that does not answer holds up no other name for long."""

Address = IPv4Address | IPv6Address

_REFUSED: tuple[tuple[str, str], ...] = (
    # https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "a 6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    # Public by its number, but within Azure it is the host that hands out credentials.
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4 in disguise (v4-mapped)"),
    ("::/96", "IPv4 in disguise (v4-compatible)"),
    ("64:ff9b::/96", "IPv4 in disguise (NAT64)"),
    ("64:ff9b:1::/48", "IPv4 in disguise (NAT64)"),
    ("100::/64", "for discarding"),
    ("2001::/32", "IPv4 in disguise (Teredo)"),
    ("2001::/23", "reserved for protocols"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "IPv4 in disguise (6to4)"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "for segment routing (SRv6)"),
    ("fc00::/7", "private (unique local)"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private (site-local)"),
    ("ff00::/8", "multicast"),
)
_REFUSED_NETWORKS = tuple((ip_network(text), why) for text, why in _REFUSED)
_GLOBAL_UNICAST = ip_network("2000::/3")


def refusal(address: Address) -> str | None:
    """Why nothing may be sent to *address*, as the end of "the address is …"; None for a public one.

    A table and not ``is_global``, which calls NAT64 and 6to4 addresses of private ones global.
    """
    for network, why in _REFUSED_NETWORKS:
        if address.version == network.version and address in network:
            return why
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not one that is given out"
    return None


class AddressRefused(Exception):
    """The address is not one to send to; the message says why and how to allow it."""


@dataclass(frozen=True)
class Allowed:
    """Where deliveries may go though it is not public: also without TLS, and on any port."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """From ``127.0.0.1``, ``10.1.0.0/16``, ``n8n.lan``. Raises ValueError, naming what is neither."""
        networks, hosts = [], set()
        for entry in (each.strip() for each in entries):
            try:
                networks.append(ip_network(entry))
                continue
            except ValueError:
                name = entry.lower().rstrip(".")
            if not name or "/" in name or ":" in name or "*" in name or _is_number(name):
                raise ValueError(
                    f"{entry!r} is no host name, address or network such as 10.1.0.0/16"
                )
            hosts.add(name)
        return cls(tuple(networks), frozenset(hosts))

    def host(self, host: str) -> bool:
        """Whether the host of an address line, a name or a number, is allowed as it is written."""
        literal = as_address(host)
        if literal is not None:
            return self.address(literal)
        return host.lower().rstrip(".") in self.hosts

    def address(self, address: Address) -> bool:
        """Whether this very address is allowed."""
        return any(
            address.version == network.version and address in network for network in self.networks
        )


def as_address(host: str) -> Address | None:
    """The address that *host* is; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_number(host: str) -> bool:
    # What the URL standard calls "ends in a number": resolvers read such a name as an address.
    last = host.rstrip(".").rpartition(".")[2]
    return last.isdecimal() or last[:2] in ("0x", "0X")


def problem_with(url: httpx.URL, allowed: Allowed) -> str | None:
    """What is wrong with *url* as far as can be told without asking a name server; None if nothing."""
    if allowed.host(url.host):
        return None
    literal = as_address(url.host)
    if literal is None and _is_number(url.host):
        return "the host is a number that hides an address; write it as 192.0.2.1 or as a name"
    if literal is not None and (why := refusal(literal)):
        return f"the address is {why}; {_HOW}"
    if url.scheme != "https":
        return f"the address must begin with https://, or be allowed; {_HOW}"
    if url.port not in (None, 443, 8443):
        return f"the port must be 443 or 8443, or the host allowed; {_HOW}"
    return None


_HOW = "add the host to TRUNKLINE_WEBHOOK_ALLOW if that is wanted"


def open_client(*, connect: timedelta, total: timedelta, max_connections: int) -> httpx.AsyncClient:
    """A client for a service that we chose, not one that a stranger named: addresses are not checked.

    It follows no redirect and reads no environment. *connect* bounds the making of a connection,
    *total* each wait for bytes.
    """
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(total.total_seconds(), connect=connect.total_seconds()),
        limits=httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        ),
    )


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


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only: asks for the name once, checks every answer, and uses those.

    Between check and connection no name is asked for again, so a name that changes its mind (DNS
    rebinding) gains nothing. With *plain*, for connections without TLS, only what is allowed passes.
    """

    def __init__(self, allowed: Allowed, resolvers: ThreadPoolExecutor, *, plain: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._allowed = allowed
        self._resolvers = resolvers
        self._plain = plain

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                for address in addresses:
                    self._check(host, address)
                return await self._first(addresses, port, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        literal = as_address(host)
        if literal is not None:
            return [literal]
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(ip_address(each[4][0]) for each in found))

    def _check(self, host: str, address: Address) -> None:
        if self._allowed.address(address) or self._allowed.host(host):
            return
        if why := refusal(address):
            raise AddressRefused(f"the host leads to an address that is {why}; {_HOW}")
        if self._plain:
            raise AddressRefused(f"without https only allowed hosts are sent to; {_HOW}")

    async def _first(
        self, addresses: Sequence[Address], port: int, socket_options: Iterable[Any] | None
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, socket_options=socket_options
                )
            except (httpcore.ConnectError, OSError) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("nothing is sent to a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


@dataclass
class _Pool:
    inner: httpcore.AsyncConnectionPool
    used_at: float = 0.0

    @property
    def busy(self) -> bool:
        return any(not connection.is_idle() for connection in self.inner.connections)


class Client:
    """Connections that are kept and used again; open it with ``async with``."""

    def __init__(
        self,
        *,
        connect: timedelta,
        max_connections: int,
        allowed: Allowed,
        proxy: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """*connect* bounds the making of a connection, name and TLS included; *max_connections* is for
        each key that :meth:`exchange` is given.

        With *proxy* (``http://host:port``) all goes through it, and the checking of addresses behind
        names is the proxy's, as with stripe/smokescreen. *ca_file* holds certificates that are trusted
        besides the public ones. Raises OSError or ssl.SSLError if it cannot be read.
        """
        trusted = ssl.create_default_context(cafile=certifi.where())
        if ca_file is not None:
            trusted.load_verify_locations(ca_file)
        self._allowed = allowed
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")
        self._limits: dict[str, Any] = {
            "ssl_context": trusted,
            "max_connections": max_connections,
            "max_keepalive_connections": max_connections,
            "keepalive_expiry": _KEPT_OPEN_S,
        }
        self._connect_s = connect.total_seconds()
        self._proxy = proxy
        # httpcore looks at every connection of a pool for every request, so pools are kept small.
        self._pools: dict[tuple[str, str], _Pool] = {}
        self._tidied_at = 0.0

    def _pool(self, key: str, scheme: str) -> httpcore.AsyncConnectionPool:
        now = asyncio.get_running_loop().time()
        pool = self._pools.get((key, scheme))
        if pool is None:
            made: httpcore.AsyncConnectionPool
            if self._proxy is not None:
                made = httpcore.AsyncHTTPProxy(proxy_url=self._proxy, **self._limits)
            else:
                guard = _Guard(self._allowed, self._resolvers, plain=scheme == "http")
                made = httpcore.AsyncConnectionPool(network_backend=guard, **self._limits)
            pool = self._pools[(key, scheme)] = _Pool(made)
        pool.used_at = now
        return pool.inner

    async def _tidy(self) -> None:
        """Close the pools that nobody has used for as long as a connection is kept."""
        now = asyncio.get_running_loop().time()
        if now - self._tidied_at < _KEPT_OPEN_S:
            return
        self._tidied_at = now
        for key, pool in list(self._pools.items()):
            if not pool.busy and now - pool.used_at > _KEPT_OPEN_S:
                del self._pools[key]
                await pool.inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in self._pools.values():
            await pool.inner.aclose()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes,
        total: timedelta,
        max_body_bytes: int,
        key: str = "",
    ) -> Reply:
        """Ask once, and return the answer with at most *max_body_bytes* of its body.

        Connections are shared among the requests of one *key*. All of it together takes at most *total*.
        Raises HttpFailed when no status came by then.
        """
        status, kept = 0, bytearray()
        answered: dict[str, str] = {}
        problem = None
        try:
            scheme, host, target = _target(url)
            if self._proxy and (wrong := problem_with(httpx.URL(url), self._allowed)):
                raise AddressRefused(wrong)
            async with (
                asyncio.timeout(total.total_seconds()),
                self._pool(key, scheme).stream(
                    method,
                    target,
                    headers=[
                        (b"host", host),
                        # A compressed answer could unpack to any size.
                        (b"accept-encoding", b"identity"),
                        *((name.encode(), value.encode()) for name, value in headers.items()),
                    ],
                    content=content,
                    # The sum is bounded above; a bound for each read would only cost time.
                    extensions={"timeout": {"connect": self._connect_s}},
                ) as response,
            ):
                status, answered = response.status, _shortened(response.headers)
                async for chunk in response.aiter_stream():
                    kept += chunk
                    if len(kept) >= max_body_bytes:
                        break
        except TimeoutError:
            within = f"within {total.total_seconds():g} s"
            problem = f"the body did not end {within}" if status else f"no answer came {within}"
        except (*_FAILURES, AddressRefused, OSError, ValueError, RuntimeError) as error:
            problem = in_words(error)
        await self._tidy()
        if not status:
            raise HttpFailed(problem or "no answer came")
        return Reply(status, answered, bytes(kept[:max_body_bytes]), problem)


_FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpx.InvalidURL,
)


@lru_cache(maxsize=1_024)
def _target(url: str) -> tuple[str, bytes, httpcore.URL]:
    """Scheme, Host header and the parts as they go over the wire. Raises httpx.InvalidURL."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("https", "http"):
        raise httpx.InvalidURL("neither http nor https")
    target = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
    )
    return parsed.scheme, parsed.netloc, target


def _shortened(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in list(headers)[:_MAX_HEADERS]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        kept[key] = (f"{kept[key]}, {text}" if key in kept else text)[:_MAX_HEADER_CHARS]
    return kept


def in_words(error: Exception) -> str:
    """Why an HTTP request failed, for people, by whatever lies at the root of *error*."""
    for cause in _chain(error):
        match cause:
            case AddressRefused():
                return str(cause)
            case ConnectionRefusedError():
                return "the connection was refused; nothing listens at that address"
            case socket.gaierror():
                return "the host name was not found"
            case ssl.SSLCertVerificationError():
                return f"the certificate is not trusted: {cause.verify_message}"
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or 'the receiver does not speak it'}"
    match error:
        case httpx.InvalidURL():
            return "that is no web address"
        case httpcore.ConnectTimeout() | httpx.ConnectTimeout():
            return "no connection came about in time"
        case httpcore.TimeoutException() | httpx.TimeoutException():
            return "no bytes came for too long"
        case httpcore.ConnectError() | httpx.ConnectError():
            return "the address cannot be reached"
        case httpcore.RemoteProtocolError():
            return f"the answer is not HTTP as it should be: {error}"[:200]
        case httpcore.ProxyError():
            return f"the outgoing proxy refused: {error}"[:200]
        case httpcore.ReadError() | httpcore.WriteError():
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
