"""EDGE: receive events without a tunnel, and ask for a replay. A client of the HTTP API, like any other.

What ``trunkline webhooks listen`` and ``trunkline webhooks replay`` do. It reads the log of events, signs
each as a delivery is signed, and posts it to a receiver on this machine: the same bytes and the same
headers as the real thing, so that the receiver's own check of the signature is tried too.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from trunkline.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TrunklineError,
    Unauthorized,
    Unavailable,
)
from trunkline.kit.clock import Clock, utc_now
from trunkline.webhooks import signing

_WAIT_S = 30
_ANSWER_WITHIN_S = 45.0
"""Longer than the API keeps a request open."""
_FORWARD_WITHIN_S = 15.0
"""As long as a delivery may take."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0

_ERRORS: dict[int, type[TrunklineError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: Invalid,
}


@dataclass(frozen=True)
class Access:
    """Where the API is and who asks."""

    url: str
    """``http://127.0.0.1:8420``, without ``/v1``."""
    key: str
    """``tl_…``: with events:read to listen, with webhooks:write to replay."""


@dataclass(frozen=True)
class ListenOptions:
    """What to listen to, and where to send it."""

    access: Access
    forward_to: str | None = None
    """Where to post each event; None only tells of them."""
    types: tuple[str, ...] = ("*",)
    """As endpoints filter them."""
    ignored_sources: tuple[str, ...] = ()
    secret: str | None = None
    """``whsec_…`` to sign with: that of the endpoint the receiver is meant for. None makes one."""
    after: str | None = "now"
    """A cursor of the log; ``now`` for what is still to come, None for all there is."""


@dataclass(frozen=True)
class Heard:
    """An event, and what the receiver made of it."""

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]
    verified: bool
    """Whether what was sent passes the check that receivers make (Standard Webhooks)."""
    status: int | None
    """The receiver's; None when there is none, or it did not answer."""
    error: str | None
    """Why it did not answer."""
    ms: int | None
    cursor: str
    """Listening again after it goes on behind the page that this event came with."""

    @property
    def ok(self) -> bool:
        """Whether a delivery like this would count as delivered."""
        return self.error is None and (self.status is None or 200 <= self.status < 300)

    def as_json(self) -> dict[str, Any]:
        """For one line of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """For one line of a terminal."""
        if self.error is not None:
            came = self.error
        elif self.status is None:
            came = "not forwarded"
        else:
            came = f"{self.status} in {self.ms} ms"
        return f"{self.timestamp}  {self.type:<22} {self.id}  {came}"


async def listen(
    options: ListenOptions,
    *,
    ready: Callable[[str], None],
    tell: Callable[[Heard], None],
    trouble: Callable[[str], None],
    clock: Clock = utc_now,
) -> None:
    """Read the log until cancelled, and *tell* of each event in order.

    *ready* is given the secret once nothing more can be missed; *trouble* hears, in a sentence, why the API
    does not answer for a while: what happens then comes afterwards. Raises Unavailable when it
    does not answer at the start, and Unauthorized, Forbidden, NotFound or Invalid when it says no.
    """
    secret = signing.new_secret() if options.secret is None else options.secret
    _check(secret)
    params = {"type": list(options.types), "ignored_source": list(options.ignored_sources)}
    async with (
        _api(options.access) as api,
        httpx.AsyncClient(timeout=_FORWARD_WITHIN_S, trust_env=False) as receiver,
    ):
        after: dict[str, str] = {"after": options.after} if options.after else {}
        page = await _ask(api, "GET", "/v1/events", params={**params, **after, "limit": 1})
        # What this look already holds is read again below, from where it began.
        if options.after == "now":
            after = {"after": page["next_cursor"]}
        ready(secret)
        pause = _FIRST_PAUSE_S
        while True:
            try:
                page = await _ask(
                    api, "GET", "/v1/events", params={**params, **after, "wait": _WAIT_S}
                )
            except Unavailable as error:
                trouble(str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            for entry in page["data"]:
                tell(await _forward(receiver, options, entry, page["next_cursor"], secret, clock))
            after = {"after": page["next_cursor"]}


async def replay(
    access: Access,
    endpoint_id: str,
    *,
    types: tuple[str, ...] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    subject: str | None = None,
) -> int:
    """Have what happened sent to an endpoint again; return how many deliveries that makes.

    *types* are the endpoint's own when left out, *subject* is a call's id. Raises what ``listen`` raises, and
    Conflict when the endpoint is off.
    """
    asked: dict[str, Any] = {
        "events": None if types is None else list(types),
        "since": since and since.isoformat(),
        "until": until and until.isoformat(),
        "subject": subject,
        "cursor": None,
    }
    count: int = 0
    async with _api(access) as api:
        while True:
            done = await _ask(api, "POST", f"/v1/endpoints/{endpoint_id}/replay", json=asked)
            count += int(done["count"])
            if done["next_cursor"] is None:
                return count
            asked["cursor"] = done["next_cursor"]


def _api(access: Access) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=access.url,
        headers={"Authorization": f"Bearer {access.key}"},
        timeout=httpx.Timeout(_ANSWER_WITHIN_S, connect=5.0),
    )


async def _ask(api: httpx.AsyncClient, method: str, path: str, **how: Any) -> dict[str, Any]:
    where = f"{api.base_url}".rstrip("/")
    try:
        answer = await api.request(method, path, **how)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(
            f"the API at {where} does not answer ({why}); check the address, and that "
            "`trunkline serve` runs there"
        ) from None
    try:
        body = answer.json()
        if answer.is_success and isinstance(body, dict):
            return body
        detail = str(body["detail"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(
            f"what answers at {where} (with {answer.status_code}) is not Trunkline's API; "
            "check the address"
        ) from None
    raise _ERRORS.get(answer.status_code, Unavailable)(detail)


async def _forward(
    receiver: httpx.AsyncClient,
    options: ListenOptions,
    entry: dict[str, Any],
    cursor: str,
    secret: str,
    clock: Clock,
) -> Heard:
    # Written as the outbox writes it, which reading and writing again leaves as it is.
    body = json.dumps(entry["body"], separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )
    type_ = entry["body"]["type"]
    headers = {
        "content-type": "application/json",
        "user-agent": "trunkline",
        **signing.headers(body, event_id=entry["id"], at=clock(), secrets=[secret]),
        "trunkline-event": type_,
        "trunkline-attempt": "1",
    }
    status, error, ms = None, None, None
    if options.forward_to is not None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(_FORWARD_WITHIN_S):
                answer = await receiver.post(options.forward_to, content=body, headers=headers)
            status = answer.status_code
        except TimeoutError:
            error = f"no answer within {_FORWARD_WITHIN_S:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            error = str(failure) or type(failure).__name__
        ms = round((loop.time() - began) * 1000)
    return Heard(
        id=entry["id"],
        type=type_,
        timestamp=entry["body"]["timestamp"],
        data=entry["body"]["data"],
        verified=_verifies(secret, body, headers),
        status=status,
        error=error,
        ms=ms,
        cursor=cursor,
    )


def _verifies(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def _check(secret: str) -> None:
    try:
        Webhook(secret)
    except Exception:  # it has several, and one of them is no kin of the others
        raise Invalid("that is no signing secret; give it as it was shown, whsec_…") from None
