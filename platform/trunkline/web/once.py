"""POST requests that are safe to send again: ``Idempotency-Key``."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access import idempotency
from trunkline.access.idempotency import Answer
from trunkline.access.models import ApiKey
from trunkline.kit.crypt import Sealer
from trunkline.web.auth import AnyKey
from trunkline.web.deps import Parts, Web

REPLAYED = "Idempotent-Replayed"
"""Header of an answer that was given before."""

Work = Callable[[AsyncSession], Awaitable[tuple[int, BaseModel]]]
"""What a request does, within one transaction: status and body of its answer."""


class Once:
    """Runs a request's work, unless the same request was answered already."""

    def __init__(self, parts: Web, key: ApiKey, word: str | None, fingerprint: str) -> None:
        self._parts = parts
        self._key = key
        self._word = word
        self._fingerprint = fingerprint

    async def run(self, work: Work, *, secret: bool = False) -> Response:
        """One transaction around *work* and the memory of its answer; an error leaves neither.

        With *secret* the answer is remembered sealed, for it shows something that is shown but once.
        """
        async with self._parts.db.work() as session:
            answer, seen = await self._answer(session, work, secret=secret)
        headers = {REPLAYED: "true"} if seen else None
        return Response(answer.body, answer.status, headers, media_type="application/json")

    async def _answer(
        self, session: AsyncSession, work: Work, *, secret: bool
    ) -> tuple[Answer, bool]:
        if self._word is None:
            return _written(await work(session)), False
        mine = {"api_key_id": self._key.id, "key": self._word}
        sealer = Sealer(self._parts.endpoint_options.keys) if secret else None
        before = await idempotency.begin(
            session, **mine, fingerprint=self._fingerprint, now=self._parts.now()
        )
        if before is not None:
            body = sealer.open(before.body) if sealer else before.body
            return Answer(before.status, body), True
        answer = _written(await work(session))
        kept = Answer(answer.status, sealer.seal(answer.body)) if sealer else answer
        await idempotency.keep(session, kept, **mine)
        return answer, False


def _written(done: tuple[int, BaseModel]) -> Answer:
    status, body = done
    return Answer(status, body.model_dump_json())


async def once(
    request: Request,
    parts: Parts,
    key: AnyKey,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Any word of your own, new for each request. Sent again with the same body "
            "within a day, the first answer comes back and nothing is done twice.",
            examples=["5f0c0e8e-6b7f-4c0e-9d64-1f8a3c1e7b11"],
        ),
    ] = None,
) -> Once:
    """The runner for this request."""
    if idempotency_key is None:
        return Once(parts, key, None, "")
    raw = await request.body()
    try:
        # The meaning counts, not the spaces: some clients write JSON anew when they repeat.
        body = json.dumps(json.loads(raw), sort_keys=True) if raw else ""
    except (ValueError, RecursionError):
        body = raw.decode(errors="replace")
    asked = f"{request.method} {request.url.path}?{request.url.query}\n{body}"
    return Once(parts, key, idempotency_key, hashlib.sha256(asked.encode()).hexdigest())


DoOnce = Annotated[Once, Depends(once)]
"""For a route that changes something."""
