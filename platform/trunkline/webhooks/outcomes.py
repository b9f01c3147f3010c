"""Outcomes: store every attempt, what follows from it and how its endpoint fares; forget what is old."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.kit.ids import lowest_id, new_id
from trunkline.webhooks import retry
from trunkline.webhooks.claims import Claimed
from trunkline.webhooks.models import Attempt, Delivery, Endpoint
from trunkline.webhooks.queries import DELIVERED, FAILED, PENDING
from trunkline.webhooks.service import let_go, remove_endpoint, set_enabled

_MAX_ERROR_CHARS = 300


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to."""

    claimed: Claimed
    started_at: datetime
    ms: int
    request_headers: dict[str, str]
    status: int | None = None
    """None when no answer came; then ``error`` says why."""
    error: str | None = None
    response_headers: dict[str, str] | None = None
    response_body: bytes = b""


async def settle(
    session: AsyncSession,
    outcomes: Sequence[Outcome],
    *,
    jitter: Callable[[], float],
    now: datetime,
) -> list[retry.Decision]:
    """Store the attempts and what follows from each, and say what that is, in the order given.

    *jitter* is asked once for each, for a number from 0 to 1. An attempt that outlived its lease is stored
    too, but it decides only if it succeeded: its delivery may by now be with another courier. Raises
    KeyError when a delivery is gone.
    """
    if not outcomes:
        return []
    locked = await session.execute(
        select(
            Delivery.id,
            Delivery.state,
            Delivery.attempts,
            Delivery.resent_after,
            Delivery.next_at,
            Delivery.delivered_at,
            Endpoint.ordered,
        )
        .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .where(Delivery.id.in_([outcome.claimed.delivery_id for outcome in outcomes]))
        .order_by(
            Delivery.id
        )  # always the same order, so that two couriers never wait for each other
        .with_for_update(of=Delivery)
    )
    rows = {row.id: dict(row._mapping) for row in locked}
    decisions = []
    attempts = []
    for outcome in outcomes:
        row = rows[outcome.claimed.delivery_id]
        row["attempts"] += 1
        decision = retry.decide(
            attempt=row["attempts"] - row["resent_after"],
            status=outcome.status,
            now=now,
            jitter=jitter(),
            retry_after=(outcome.response_headers or {}).get("retry-after"),
        )
        _apply(decision, row, leased_until=outcome.claimed.leased_until, now=now)
        attempts.append(_attempt(outcome, number=row["attempts"], decision=decision, now=now))
        decisions.append(decision)
    table = Delivery.__table__
    await (await session.connection()).execute(
        update(table)  # type: ignore[arg-type]
        .where(table.c.id == bindparam("its_id"))
        .values({name: bindparam(f"its_{name}") for name in _SETTLED}),
        [{f"its_{name}": row[name] for name in ("id", *_SETTLED)} for row in rows.values()],
    )
    await session.execute(insert(Attempt), attempts)
    finished: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        claimed = outcome.claimed
        row = rows[claimed.delivery_id]
        # By what the endpoint is now: it may have come to ask for order since the claim.
        if row["ordered"] and row["state"] != PENDING:
            finished[claimed.endpoint_id].add(claimed.subject)
    # Endpoints too are locked in one order.
    for endpoint_id in sorted({outcome.claimed.endpoint_id for outcome in outcomes}):
        own = [
            (outcome, decision)
            for outcome, decision in zip(outcomes, decisions, strict=True)
            if outcome.claimed.endpoint_id == endpoint_id
        ]
        await _note_health(session, endpoint_id, own, now=now)
        if endpoint_id in finished:
            await let_go(session, endpoint_id, subjects=finished[endpoint_id], now=now)
    return decisions


_SETTLED = ("attempts", "state", "next_at", "delivered_at")


def _apply(
    decision: retry.Decision, row: dict[str, Any], *, leased_until: datetime, now: datetime
) -> None:
    if row["state"] != PENDING:
        return
    leased = row["next_at"] == leased_until
    match decision:
        case retry.Delivered():
            row["state"], row["delivered_at"] = DELIVERED, now
        case retry.RetryAt(at) if leased:
            row["next_at"] = at
        case retry.GiveUp() if leased:
            row["state"] = FAILED


def _attempt(
    outcome: Outcome, *, number: int, decision: retry.Decision, now: datetime
) -> dict[str, Any]:
    body = outcome.response_body.decode(errors="replace")
    return {
        "id": new_id("att", now=now),
        "delivery_id": outcome.claimed.delivery_id,
        "number": number,
        "started_at": outcome.started_at,
        "ms": outcome.ms,
        "status": outcome.status,
        "error": outcome.error and outcome.error[:_MAX_ERROR_CHARS],
        "request_headers": outcome.request_headers,
        "response_headers": outcome.response_headers,
        # PostgreSQL's text cannot hold NUL.
        "response_body": None if outcome.status is None else body.replace("\0", "\ufffd"),
        "next_at": decision.at if isinstance(decision, retry.RetryAt) else None,
    }


async def _note_health(
    session: AsyncSession,
    endpoint_id: str,
    own: Sequence[tuple[Outcome, retry.Decision]],
    *,
    now: datetime,
) -> None:
    """Count failures in a row, and switch the endpoint off when it is gone or has failed for too long."""
    gone = next((d for _, d in own if isinstance(d, retry.GiveUp) and d.disable), None)
    failed = sum(not isinstance(decision, retry.Delivered) for _, decision in own)
    if gone and own[0][0].claimed.hook:
        # Unless it was deleted meanwhile.
        if (await session.get(Endpoint, endpoint_id, populate_existing=True)) is not None:
            await remove_endpoint(session, endpoint_id, now=now)
    elif gone:
        await set_enabled(session, endpoint_id, False, reason=gone.reason, now=now)
    elif failed == len(own):
        health = (
            await session.execute(
                update(Endpoint)
                .where(Endpoint.id == endpoint_id)
                .values(
                    failures=Endpoint.failures + failed,
                    failing_since=func.coalesce(Endpoint.failing_since, now),
                )
                .returning(Endpoint.failures, Endpoint.failing_since)
                .execution_options(synchronize_session=False)
            )
        ).one()
        if retry.is_given_up(failing_since=health[1], failures=health[0], now=now):
            reason = f"nothing has reached it since {health[1]:%Y-%m-%d %H:%M} UTC"
            await set_enabled(session, endpoint_id, False, reason=reason, now=now)
    elif failed or any(outcome.claimed.failures for outcome, _ in own):
        await session.execute(
            update(Endpoint)
            .where(Endpoint.id == endpoint_id, Endpoint.failures > 0)
            .values(failures=0, failing_since=None)
            .execution_options(synchronize_session=False)
        )


async def prune(
    session: AsyncSession,
    *,
    delivered_before: datetime,
    failed_before: datetime,
    limit: int = 1_000,
) -> int:
    """Forget up to *limit* old deliveries with their attempts; return how many. Those under way stay."""
    found = 0
    for state, before in ((DELIVERED, delivered_before), (FAILED, failed_before)):
        old = (
            await session.scalars(
                # By id, which begins with the time it was made at.
                select(Delivery.id)
                .where(Delivery.id < lowest_id("dlv", at=before), Delivery.state == state)
                .order_by(Delivery.id)
                .limit(limit - found)
            )
        ).all()
        if old:
            await session.execute(delete(Attempt).where(Attempt.delivery_id.in_(old)))
            await session.execute(delete(Delivery).where(Delivery.id.in_(old)))
        found += len(old)
    return found
