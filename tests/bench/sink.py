"""A receiver as cheap as can be, so that a bench measures the sender: it notes what came and when."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from standardwebhooks.webhooks import Webhook

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    """By ``time.perf_counter``."""


@dataclass
class Sink:
    """Answers 200 to all; a path that begins with /dead is never answered."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _open: set[asyncio.BaseTransport] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def open(self) -> None:
        """Listen; on the same port as before, if it was open before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Talk(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and drop everyone in the middle of what they say."""
        if self._server:
            self._server.close()
            self._server = None
        for transport in list(self._open):
            transport.close()
        await asyncio.sleep(0)

    async def until(self, done: Callable[[Sequence[Got]], bool], *, within_s: float) -> bool:
        """Wait until *done* says so of all that came; False when it did not in time."""
        end = time.perf_counter() + within_s
        while not done(self.got):
            self._news.clear()
            left = end - time.perf_counter()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                return done(self.got)
        return True

    def verified(self, secrets: dict[str, str], *, after: int = 0) -> int:
        """How many hold, by the official library, those *after* as many left out; *secrets* by path.

        Raises WebhookVerificationError for one that does not, as of what came more than five minutes ago.
        """
        count = 0
        for each in self.got[after:]:
            Webhook(secrets[each.path]).verify(each.body, each.headers, json_parse=False)
            count += 1
        return count


class _Talk(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink._open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < total:
                return
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            path = first.split(" ")[1].lstrip("/")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
            if path.startswith("dead"):
                return
            self._sink.got.append(Got(path, headers, body, time.perf_counter()))
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            self._sink._news.set()
