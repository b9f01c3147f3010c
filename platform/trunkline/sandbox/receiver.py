"""A receiver of webhooks, as an integrator would write it: a small HTTP server that checks each signature.

The demo shows what it gets; tests let it answer badly on purpose. It listens on loopback only.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trunkline.errors import Unavailable
from trunkline.kit import asgi

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """What the receiver says to one request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    event_id: str
    type: str
    """Empty when the body is no event."""
    verified: bool
    """Whether signature and time were right for the receiver's secret."""
    body: Any
    """The body read as JSON; None when it is none."""
    raw: bytes
    headers: Mapping[str, str]
    """Names in lower case."""
    status: int
    """What was answered."""


class Receiver:
    """Takes webhooks on ``url`` while its context is open, and keeps them in ``received``, in order.

    ``secret`` may be set later, because an endpoint's secret exists only once its address is known. Without
    it nothing verifies. *port* 0 lets the system choose; a taken one raises Unavailable.
    """

    def __init__(self, *, secret: str | None = None, port: int = 0) -> None:
        self.secret = secret
        self.received: list[Received] = []
        self.port = port
        """The port it listens on, once open."""
        self._answers: deque[Answer] = deque()
        self._open_gate = asyncio.Event()
        self._open_gate.set()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it takes webhooks."""
        return f"http://{_HOST}:{self.port}/hooks"

    def answer(self, *answers: int | Answer) -> None:
        """Answer the next requests with these (a number is a status), and then with 200 again."""
        self._answers.extend(Answer(each) if isinstance(each, int) else each for each in answers)

    def hold(self) -> None:
        """Keep every request without an answer until :meth:`release`."""
        self._open_gate.clear()

    def release(self) -> None:
        """Answer what was held, and answer at once from now on."""
        self._open_gate.set()

    async def until(
        self,
        condition: Callable[[list[Received]], bool],
        *,
        within: timedelta = timedelta(seconds=10),
    ) -> list[Received]:
        """Wait until *condition* of what was received holds, and return all of it.

        Raises TimeoutError, naming what did arrive.
        """
        try:
            async with asyncio.timeout(within.total_seconds()), self._changed:
                await self._changed.wait_for(lambda: condition(self.received))
        except TimeoutError:
            came = ", ".join(f"{each.type} → {each.status}" for each in self.received)
            raise TimeoutError(
                f"not within {within.total_seconds():g} s; received: {came or 'nothing'}"
            ) from None
        return self.received

    async def __aenter__(self) -> Self:
        try:
            # Connections wait in the socket's queue until the server runs.
            listener = asgi.listen(_HOST, self.port)
        except asgi.PortTaken as error:
            raise Unavailable(f"the webhook receiver {error}") from error
        self.port = listener.getsockname()[1]
        app = Starlette(routes=[Route("/hooks", self._take, methods=["POST"])])
        self._task = asyncio.create_task(asgi.serve(app, listener, lambda: None))
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self.release()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _take(self, request: Request) -> Response:
        raw = await request.body()
        answer = self._answers.popleft() if self._answers else Answer()
        body = _json(raw)
        self.received.append(
            Received(
                event_id=request.headers.get("webhook-id", ""),
                type=str(body.get("type", "")) if isinstance(body, dict) else "",
                verified=self._verifies(raw, request),
                body=body,
                raw=raw,
                headers=dict(request.headers),
                status=answer.status,
            )
        )
        async with self._changed:
            self._changed.notify_all()
        await self._open_gate.wait()
        return Response(answer.body, answer.status, dict(answer.headers))

    def _verifies(self, raw: bytes, request: Request) -> bool:
        if self.secret is None:
            return False
        try:
            Webhook(self.secret).verify(raw, dict(request.headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            return False
        return True


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
