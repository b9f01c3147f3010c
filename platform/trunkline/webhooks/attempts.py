"""One attempt at a delivery: sign it, post it once, and say what it came to."""

import asyncio
from datetime import timedelta

from trunkline.kit.clock import Clock
from trunkline.kit.http import Client, HttpFailed, Reply
from trunkline.webhooks import retell, signing
from trunkline.webhooks.claims import Claimed
from trunkline.webhooks.outcomes import Outcome
from trunkline.webhooks.service import RETELL


async def attempt(
    client: Client, claimed: Claimed, *, total: timedelta, max_body_bytes: int, clock: Clock
) -> Outcome:
    """Send *claimed*; within *total* there is an outcome, with at most *max_body_bytes* of the answer.

    Whatever the receiver does, nothing is raised for it: the outcome says it in words.
    """
    started_at = clock()
    headers = {
        "content-type": "application/json",
        "user-agent": "trunkline",
        **signing.headers(
            claimed.body, event_id=claimed.event_id, at=started_at, secrets=claimed.secrets
        ),
        "trunkline-event": claimed.event_type,
        "trunkline-attempt": str(claimed.number),
    }
    if claimed.format == RETELL:
        headers["x-retell-signature"] = retell.signature(
            claimed.body, at=started_at, secret=claimed.secrets[0]
        )
    loop = asyncio.get_running_loop()
    began = loop.time()
    reply: Reply | None = None
    error: str | None = None
    try:
        reply = await client.exchange(
            "POST",
            claimed.url,
            headers={**claimed.headers, **headers},
            content=claimed.body,
            total=total,
            max_body_bytes=max_body_bytes,
            key=claimed.endpoint_id,
        )
        error = reply.problem
    except HttpFailed as failure:
        error = str(failure)
    return Outcome(
        claimed,
        started_at,
        round((loop.time() - began) * 1000),
        # The endpoint's own may be passwords; the log tells that they were sent.
        {**dict.fromkeys(claimed.headers, "(hidden)"), **headers},
        status=reply.status if reply else None,
        error=error,
        response_headers=reply.headers if reply else None,
        response_body=reply.body if reply else b"",
    )
