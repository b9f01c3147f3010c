"""Endpoints, deliveries and attempts as they are stored."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.events import (
    CallAnswered,
    DealUpdated,
    EndpointDisabled,
    EndpointTest,
    Event,
    TranscriptReady,
    TranscriptTurn,
)
from trunkline.kit.crypt import CryptError, Sealer, new_key
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.outbox.record import record
from trunkline.webhooks import claims, outcomes, queries, repair, retry, service
from trunkline.webhooks.claims import Claimed
from trunkline.webhooks.models import Attempt, Delivery, Endpoint
from trunkline.webhooks.options import CourierOptions, EndpointOptions
from trunkline.webhooks.outcomes import Outcome

LEASE = timedelta(seconds=30)
OPTIONS = EndpointOptions(keys=(new_key(),), allow=("127.0.0.1",))
SEALER = Sealer(OPTIONS.keys)
TURN = TranscriptTurn("call_1", "turn_1", 1, "user", "Hello.", 0, 900, False)
DEAL = DealUpdated("deal_1", None, "Fiber", "call", {"stage": "a"}, {"stage": "b"}, None)


async def add(
    db: Database, now: datetime, *events: str, url: str = "https://a.example/", **more: Any
) -> Endpoint:
    async with db.work() as session:
        endpoint, _ = await service.add_endpoint(
            session, options=OPTIONS, url=url, events=events or ["*"], now=now, **more
        )
    return endpoint


async def tell(db: Database, now: datetime, *events: Event) -> int:
    """Record, publish and fan out; return how many deliveries that made."""
    async with db.work() as session:
        for event in events:
            await record(session, event, now=now)
        return await service.fan_out(session, await publish(session), now=now)


async def ready(db: Database, now: datetime, count: int, *, call: str = "call_1") -> int:
    return await tell(db, now, *(TranscriptReady(call, turns=n) for n in range(count)))


async def claim(db: Database, now: datetime, **more: Any) -> list[Claimed]:
    async with db.work() as session:
        return await claims.claim(
            session, **{"limit": 100, "lease": LEASE, "now": now, "sealer": SEALER, **more}
        )


async def settle(
    db: Database, claimed: Claimed, now: datetime, *, jitter: float = 1.0, **outcome: Any
) -> retry.Decision:
    came = Outcome(claimed, started_at=now, ms=12, request_headers={"webhook-id": "x"}, **outcome)
    async with db.work() as session:
        [decision] = await outcomes.settle(session, [came], jitter=lambda: jitter, now=now)
    return decision


async def log(db: Database) -> Sequence[queries.DeliveryLog]:
    async with db.look() as session:
        return await queries.deliveries(session)


# --- endpoints ---------------------------------------------------------------------------------


async def test_a_new_endpoint_has_its_own_secret(db: Database, now: datetime) -> None:
    """The secret is whsec_ and at least 24 random bytes, and no two endpoints share one."""
    async with db.work() as session:
        made = [
            await service.add_endpoint(
                session, options=OPTIONS, url="http://127.0.0.1:1/", events=["*"], now=now
            )
            for _ in range(2)
        ]
    secrets = [secret for _, secret in made]
    assert [SEALER.open(endpoint.secret) for endpoint, _ in made] == secrets
    assert not any(secret in endpoint.secret for endpoint, secret in made)
    assert len(set(secrets)) == 2
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) >= 24 for secret in secrets)
    async with db.look() as session:
        stored = await queries.endpoint(session, made[0][0].id)
        assert (stored.enabled, stored.events, stored.created_at) == (True, ["*"], now)
        assert [row.id for row in await queries.endpoints(session)] == [row.id for row, _ in made]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://a.example/x", "must begin with https:// or http://"),
        ("a.example/x", "must begin with https:// or http://"),
        ("", "must begin with https:// or http://"),
        ("https:///x", "names no host"),
        ("https://user:secret@a.example/", "holds a user name or password"),
        ("https://user@a.example/", "holds a user name or password"),
        (
            "https://user:secret",
            "is no web address",
        ),  # the parser takes it for a port, and quotes it
        ("https://a.example:99999/", "no possible port"),
        ("https://a.example:0/", "no possible port"),
        ("https://a.example/\nx", "is no web address"),
        ("https://[::1/", "is no web address"),
        ("https://a.example/" + "x" * 2000, "at most 2000"),
    ],
)
async def test_an_address_that_cannot_work_is_refused(
    sqlite_db: Database, now: datetime, url: str, sentence: str
) -> None:
    """The refusal says what to write, repeats nothing secret, and stores nothing."""
    with pytest.raises(Invalid) as refused:
        await add(sqlite_db, now, url=url)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)
    async with sqlite_db.look() as session:
        assert await queries.endpoints(session) == []


async def test_an_unknown_event_is_refused_with_the_nearest(
    sqlite_db: Database, now: datetime
) -> None:
    """A slip in an event's name is told at once, not noticed weeks later."""
    with pytest.raises(Invalid, match=r"did you mean 'call\.ended'"):
        await add(sqlite_db, now, "call.endet")


async def test_switching_off_is_told_once(db: Database, now: datetime) -> None:
    """endpoint.disabled is recorded when an endpoint goes off, not when it is off already or goes on."""
    endpoint = await add(db, now)
    for enabled in (False, False, True, True):
        async with db.work() as session:
            changed = await service.set_enabled(session, endpoint.id, enabled, now=now)
            assert changed.enabled is enabled
            assert (changed.disabled_reason is None) is enabled
    async with db.work() as session:
        told = await publish(session)
    assert [row.type for row in told] == [EndpointDisabled.type]
    with pytest.raises(NotFound, match="whk_none"):
        async with db.work() as session:
            await service.set_enabled(session, "whk_none", True, now=now)


# --- fan-out -----------------------------------------------------------------------------------


async def test_each_endpoint_gets_what_it_asked_for(db: Database, now: datetime) -> None:
    """Names, group wildcards and * choose; opt-in types only by name; disabled endpoints get nothing."""
    everything = await add(db, now)
    calls_and_turns = await add(db, now, "call.*", "transcript.turn")
    deals = await add(db, now, "deal.updated")
    off = await add(db, now)
    async with db.work() as session:
        await service.set_enabled(session, off.id, False, now=now)
        await publish(session)
    assert await tell(db, now, TURN, DEAL) == 3
    got = {(row.delivery.endpoint_id, row.delivery.event_type) for row in await log(db)}
    assert got == {
        (everything.id, DEAL.type),
        (deals.id, DEAL.type),
        (calls_and_turns.id, TURN.type),
    }


async def test_a_test_event_goes_to_its_endpoint_alone(db: Database, now: datetime) -> None:
    """It reaches the endpoint it was made for, whatever that one listens to, and no other."""
    await add(db, now)
    asked = await add(db, now, "deal.updated")
    assert await tell(db, now, EndpointTest(asked.id)) == 1
    [only] = await log(db)
    assert only.endpoint.id == asked.id


async def test_the_same_event_is_never_delivered_twice_to_one_endpoint(
    db: Database, now: datetime
) -> None:
    """Fanning out again, after a crash or by mistake, adds nothing."""
    await add(db, now)
    await ready(db, now, 3)
    async with db.work() as session:
        events = (await session.scalars(select(EventRow))).all()
        assert await service.fan_out(session, events, now=now) == 0
    assert len(await log(db)) == 3


async def test_a_large_batch_fits_into_one_statement(db: Database, now: datetime) -> None:
    """500 events for 12 endpoints: more values than SQLite takes at once, and all are there."""
    for _ in range(12):
        await add(db, now)
    async with db.work() as session:
        session.add_all(
            EventRow(
                id=f"evt_{n}",
                type="transcript.ready",
                subject="call_1",
                seq=n,
                body={},
                recorded_at=now,
            )
            for n in range(500)
        )
        await session.flush()
        assert await service.fan_out(session, await publish(session), now=now) == 6_000


# --- claim -------------------------------------------------------------------------------------


async def test_a_claimed_delivery_is_left_alone_until_its_lease_ends(
    db: Database, now: datetime
) -> None:
    """While one courier has it no other gets it; if that courier dies it is due again after the lease."""
    await add(db, now)
    await ready(db, now, 1)
    [first] = await claim(db, now)
    assert await claim(db, now + LEASE - timedelta(microseconds=1)) == []
    [second] = await claim(db, now + LEASE)
    assert (second.delivery_id, second.number) == (first.delivery_id, 1)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("tried", [True, False])  # it died with a retry in hand, or a first attempt
async def test_a_courier_that_dies_costs_its_lease_and_no_attempt(
    db: Database, now: datetime, tried: bool, ordered: bool
) -> None:
    """What it had in hand is due when the lease ends, within five seconds: no wait of the schedule comes on
    top, no failure is counted, and the next event of an ordered endpoint's call follows at once."""
    lease = CourierOptions(OPTIONS).lease
    endpoint = await add(db, now, ordered=ordered)
    await ready(db, now, 2 if ordered else 1)
    if tried:
        [first] = await claim(db, now, lease=lease)
        await settle(db, first, now, jitter=0.0, status=500)
    # Nothing more is heard of who claims this.
    [dying] = await claim(db, now, lease=lease)

    assert lease <= timedelta(seconds=5)
    again = now + lease
    [taken] = await claim(db, again, lease=lease)
    assert (taken.delivery_id, taken.number) == (dying.delivery_id, 2 if tried else 1)
    async with db.look() as session:
        assert (await queries.endpoint(session, endpoint.id)).failures == (1 if tried else 0)
    await settle(db, taken, again, status=200)
    follow = await claim(db, again, lease=lease)
    assert [json.loads(each.body)["data"]["seq"] for each in follow] == ([2] if ordered else [])


async def test_a_claim_holds_all_that_is_sent(db: Database, now: datetime) -> None:
    """Address, secret, event and bytes come with the claim, so no transaction is needed while sending."""
    endpoint = await add(db, now, url="https://b.example/hook?key=1")
    await ready(db, now, 1)
    [claimed] = await claim(db, now)
    assert claimed.url == "https://b.example/hook?key=1"
    assert claimed.secrets == (SEALER.open(endpoint.secret),)
    assert claimed.event_id.startswith("evt_")
    assert claimed.body.startswith(b'{"type":"transcript.ready","timestamp":')


async def tell_in_hand(
    db: Database, now: datetime, count: int, **more: Any
) -> tuple[int, list[Claimed]]:
    """Record, publish, and claim what is made of it at once."""
    async with db.work() as session:
        for turns in range(count):
            await record(session, TranscriptReady(f"call_{turns % 2}", turns=turns), now=now)
        return await claims.fan_out_in_hand(
            session,
            await publish(session),
            **{
                "sealer": SEALER,
                "limit": 100,
                "per_endpoint": 4,
                "in_flight": {},
                "lease": LEASE,
                "now": now,
                **more,
            },
        )


async def test_what_is_told_can_be_claimed_as_it_is_made(db: Database, now: datetime) -> None:
    """As far as there is room for its endpoint it is leased and whole; the rest waits to be claimed."""
    endpoint = await add(db, now)
    made, taken = await tell_in_hand(db, now, 6, in_flight={endpoint.id: 1})
    assert made == 6
    assert [json.loads(each.body)["data"]["turns"] for each in taken] == [0, 1, 2]
    assert {each.leased_until for each in taken} == {now + LEASE}
    rest = await claim(db, now)
    assert [json.loads(each.body)["data"]["turns"] for each in rest] == [3, 4, 5]
    again = await claim(db, now + LEASE)
    assert sorted(each.delivery_id for each in again) == sorted(
        each.delivery_id for each in [*taken, *rest]
    )
    by_id = {each.delivery_id: each for each in again}
    assert [by_id[each.delivery_id] for each in taken] == [
        replace(each, leased_until=now + LEASE + LEASE) for each in taken
    ]


async def test_an_ordered_endpoint_claims_one_of_a_call_as_it_is_made(
    db: Database, now: datetime
) -> None:
    """The first of each call goes; the second is held, and stays so until the first is through."""
    await add(db, now, ordered=True)
    made, taken = await tell_in_hand(db, now, 4)
    assert (made, [each.subject for each in taken]) == (4, ["call_0", "call_1"])
    assert await states(db) == ["pending", "pending", "held", "held"]
    await settle(db, taken[0], now, status=200)
    assert [each.subject for each in await claim(db, now)] == ["call_0"]


@pytest.mark.parametrize(
    "reason",
    [
        "older",  # a new event must not overtake for ever what waits
        "failing",  # one attempt at a time will do
        "limited",  # the claim counts
        "off",
    ],
)
async def test_what_is_not_free_to_go_is_not_claimed_as_it_is_made(
    db: Database, now: datetime, reason: str
) -> None:
    """An endpoint with older deliveries, a failing one, one with a rate limit: the claim decides."""
    endpoint = await add(db, now, rate_per_s=5 if reason == "limited" else None)
    if reason in ("older", "failing"):
        await ready(db, now - LEASE, 1)
    if reason == "failing":
        [first] = await claim(db, now - LEASE)
        await settle(db, first, now, status=500)
    if reason == "off":
        async with db.work() as session:
            await service.set_enabled(session, endpoint.id, False, now=now)
    made, taken = await tell_in_hand(db, now, 2)
    assert (made, taken) == (0 if reason == "off" else 2, [])


async def test_a_long_queue_hides_no_other_endpoint(db: Database, now: datetime) -> None:
    """Each endpoint gets at most its own share of a claim, those in flight counted."""
    slow = await add(db, now, "transcript.ready")
    await ready(db, now, 40)
    quick = await add(db, now, "deal.updated")
    await tell(db, now, DEAL)
    claimed = await claim(db, now, limit=10, per_endpoint=4)
    assert [each.endpoint_id for each in claimed].count(slow.id) == 4
    assert [each.endpoint_id for each in claimed].count(quick.id) == 1
    more = await claim(db, now, limit=10, per_endpoint=4, in_flight={slow.id: 3})
    assert [each.endpoint_id for each in more] == [slow.id]
    assert await claim(db, now, limit=10, per_endpoint=4, in_flight={slow.id: 4}) == []


async def test_the_endpoint_that_waited_longest_comes_first(db: Database, now: datetime) -> None:
    """With room for few, the oldest due delivery decides whose turn it is."""
    later = await add(db, now, "transcript.ready")
    earlier = await add(db, now, "deal.updated")
    await ready(db, now, 3)
    await tell(db, now - timedelta(seconds=1), DEAL)
    claimed = await claim(db, now, limit=2)
    assert [each.endpoint_id for each in claimed] == [earlier.id, later.id]


async def test_nothing_is_claimed_before_it_is_due_or_for_an_endpoint_that_is_off(
    db: Database, now: datetime
) -> None:
    """A disabled endpoint's deliveries wait, and are sent once it is enabled again."""
    endpoint = await add(db, now)
    await ready(db, now, 1)
    assert await claim(db, now - timedelta(seconds=1)) == []
    async with db.work() as session:
        await service.set_enabled(session, endpoint.id, False, now=now)
        assert await queries.next_due(session) == (None, None)
    assert await claim(db, now) == []
    async with db.work() as session:
        await service.set_enabled(session, endpoint.id, True, now=now)
        assert await queries.next_due(session) == (now, None)
        assert await queries.next_due(session, skip=[endpoint.id]) == (None, None)
    assert len(await claim(db, now)) == 1


async def test_two_couriers_never_claim_the_same(db: Database, now: datetime) -> None:
    """A second claim, made while the first one's transaction is open, takes others (PostgreSQL) or waits."""
    await add(db, now)
    await ready(db, now, 6)
    async with db.work() as session:
        first = await claims.claim(session, sealer=SEALER, limit=3, lease=LEASE, now=now)
        if db.dialect == "postgresql":
            second = await claim(db, now)  # would hang here if it waited for the first
    if db.dialect == "sqlite":
        second = await claim(db, now)
    taken = [each.delivery_id for each in [*first, *second]]
    assert (len(first), len(second)) == (3, 3)
    assert len(set(taken)) == 6


# --- settle ------------------------------------------------------------------------------------


async def test_every_attempt_is_stored_until_one_succeeds(db: Database, now: datetime) -> None:
    """Each attempt keeps time, status, headers, body and error; the delivery says where it stands."""
    await add(db, now)
    await ready(db, now, 1)
    [claimed] = await claim(db, now)
    decision = await settle(db, claimed, now, error="the connection was refused")
    assert decision == retry.RetryAt(now + timedelta(seconds=5))
    then = now + timedelta(seconds=5)
    [claimed] = await claim(db, then)
    assert claimed.number == 2
    answer: dict[str, Any] = {
        "status": 200,
        "response_headers": {"server": "x"},
        "response_body": b"o\x00k\xff",
    }
    assert await settle(db, claimed, then, **answer) == retry.Delivered()

    async with db.look() as session:
        [entry] = await queries.deliveries_of_subject(session, "call_1")
    delivery = entry.delivery
    assert (delivery.state, delivery.attempts, delivery.delivered_at) == ("delivered", 2, then)
    first, second = entry.attempts
    assert (first.number, first.status, first.error) == (1, None, "the connection was refused")
    assert (first.response_headers, first.response_body) == (None, None)
    assert (second.number, second.status, second.error) == (2, 200, None)
    assert second.response_headers == {"server": "x"}
    assert second.response_body == "o\ufffdk\ufffd"  # NUL and bytes that are no UTF-8
    assert (second.started_at, second.ms) == (then, 12)
    assert second.request_headers == {"webhook-id": "x"}
    assert await claim(db, then + timedelta(days=9)) == []


async def test_a_receiver_that_is_busy_is_asked_later(db: Database, now: datetime) -> None:
    """Retry-After moves the next attempt."""
    await add(db, now)
    await ready(db, now, 1)
    [claimed] = await claim(db, now)
    await settle(db, claimed, now, status=429, response_headers={"retry-after": "90"})
    async with db.look() as session:
        assert await queries.next_due(session) == (now + timedelta(seconds=90), None)


async def test_after_the_last_attempt_the_delivery_has_failed(db: Database, now: datetime) -> None:
    """Nine attempts, three days: then it is failed and nobody claims it again."""
    await add(db, now)
    await ready(db, now, 1)
    moment, numbers = now, []
    for _ in range(9):
        [claimed] = await claim(db, moment)
        numbers.append(claimed.number)
        decision = await settle(db, claimed, moment, status=500)
        if isinstance(decision, retry.RetryAt):
            moment = decision.at
    assert numbers == list(range(1, 10))
    assert decision == retry.GiveUp("all 9 attempts failed")
    [entry] = await log(db)
    assert (entry.delivery.state, len(entry.attempts)) == ("failed", 9)
    assert await claim(db, moment + timedelta(days=365)) == []


async def test_gone_switches_the_endpoint_off(db: Database, now: datetime) -> None:
    """410 fails the delivery, disables the endpoint and tells the others, once for two at the same time."""
    gone = await add(db, now, "transcript.ready")
    watcher = await add(db, now, "endpoint.*")
    await ready(db, now, 2)
    for claimed in await claim(db, now):
        await settle(db, claimed, now, status=410)
    async with db.work() as session:
        endpoint = await queries.endpoint(session, gone.id)
        assert not endpoint.enabled
        assert endpoint.disabled_reason == "the receiver answered 410 Gone"
        events = await publish(session)
        assert [(row.type, row.subject) for row in events] == [("endpoint.disabled", gone.id)]
        assert await service.fan_out(session, events, now=now) == 1
    states = {row.delivery.endpoint_id: row.delivery.state for row in await log(db)}
    assert states == {gone.id: "failed", watcher.id: "pending"}


async def test_an_attempt_that_outlived_its_lease_decides_only_by_success(
    db: Database, now: datetime
) -> None:
    """A late failure is stored but moves nothing of the one who has it now; a late success delivers."""
    await add(db, now)
    await ready(db, now, 1)
    [late] = await claim(db, now)
    [current] = await claim(db, now + LEASE)
    await settle(db, late, now + LEASE, status=500)
    async with db.look() as session:
        assert await queries.next_due(session) == (current.leased_until, None)
    await settle(db, late, now + LEASE, status=200)
    [entry] = await log(db)
    assert (entry.delivery.state, entry.delivery.attempts) == ("delivered", 2)
    # And the current one's failure does not take the success back.
    await settle(db, current, now + LEASE, status=500)
    [entry] = await log(db)
    assert (entry.delivery.state, len(entry.attempts)) == ("delivered", 3)


# --- order -------------------------------------------------------------------------------------


async def states(db: Database) -> list[str]:
    """The states of all deliveries, oldest first."""
    return [entry.delivery.state for entry in reversed(await log(db))]


async def test_an_ordered_endpoint_gets_one_event_of_a_call_at_a_time(
    db: Database, now: datetime
) -> None:
    """The next is held until the one before is through; other calls go on; a failure holds the place."""
    await add(db, now, "transcript.ready", ordered=True)
    await ready(db, now, 3)
    await ready(db, now, 1, call="call_2")
    assert sorted(await states(db)) == ["held", "held", "pending", "pending"]
    claimed = await claim(db, now)
    assert sorted(each.subject for each in claimed) == ["call_1", "call_2"]
    first = next(each for each in claimed if each.subject == "call_1")
    await settle(db, first, now, status=500)
    assert await claim(db, now) == []
    then = now + timedelta(seconds=5)
    [again] = await claim(db, then)
    assert (again.delivery_id, again.number) == (first.delivery_id, 2)
    await settle(db, again, then, status=200)
    # Also what is told meanwhile keeps its place.
    await ready(db, then, 1)
    order = []
    for _ in range(3):
        [following] = await claim(db, then)
        await settle(db, following, then, status=200)
        order.append(following.body)
    assert [b'"seq":%d' % n in body for n, body in zip((2, 3, 4), order, strict=True)] == [True] * 3


async def test_a_given_up_event_lets_the_next_of_its_call_go(db: Database, now: datetime) -> None:
    """An ordered endpoint does not wait for ever for what was given up."""
    await add(db, now, "transcript.ready", ordered=True)
    await ready(db, now, 2)
    moment = now
    for _ in range(9):
        [first] = await claim(db, moment)
        decision = await settle(db, first, moment, status=500)
        moment = decision.at if isinstance(decision, retry.RetryAt) else moment
    [second] = await claim(db, moment)
    assert second.delivery_id != first.delivery_id
    assert await states(db) == ["failed", "pending"]


async def test_told_while_the_one_before_is_settled_nothing_is_held_for_ever(
    db: Database, now: datetime
) -> None:
    """Settling and fanning out at the same time, in either order, leave the next one free to go."""
    await add(db, now, "transcript.ready", ordered=True)
    for _ in range(5):
        await ready(db, now, 1)
        [claimed] = await claim(db, now)
        await asyncio.gather(settle(db, claimed, now, status=200), ready(db, now, 1))
        [following] = await claim(db, now)
        await settle(db, following, now, status=200)
    assert set(await states(db)) == {"delivered"}


async def test_asked_for_order_while_one_is_on_its_way_nothing_is_held_for_ever(
    db: Database, now: datetime
) -> None:
    """What was claimed before the wish for order lets go what came after it."""
    endpoint = await add(db, now, "transcript.ready")
    await ready(db, now, 1)
    [first] = await claim(db, now)
    async with db.work() as session:
        await service.update_endpoint(
            session, endpoint.id, {"ordered": True}, options=OPTIONS, now=now
        )
    await ready(db, now, 1)
    assert await states(db) == ["pending", "held"]
    await settle(db, first, now, status=200)
    assert await states(db) == ["delivered", "pending"]


async def test_without_the_wish_for_order_what_was_held_is_let_go(
    db: Database, now: datetime
) -> None:
    """Switching order off frees the queue."""
    endpoint = await add(db, now, "transcript.ready", ordered=True)
    await ready(db, now, 3)
    async with db.work() as session:
        await service.update_endpoint(
            session, endpoint.id, {"ordered": False}, options=OPTIONS, now=now
        )
    assert len(await claim(db, now)) == 3


# --- limits, health ----------------------------------------------------------------------------


async def test_a_rate_limit_is_kept_by_all_couriers_together(db: Database, now: datetime) -> None:
    """Ten in a second, asked for every 50 ms by two: no more than that in any second, and no fewer."""
    await add(db, now, rate_per_s=10)
    await ready(db, now, 40)
    times = []
    for step in range(60):
        moment = now + timedelta(milliseconds=50 * step)
        async with db.look() as session:
            due, _ = await queries.next_due(session)
        got = [*await claim(db, moment), *await claim(db, moment)]
        assert not got or (due is not None and due <= moment)
        times += [moment] * len(got)
    assert 29 <= len(times) <= 32
    for start in times:
        within = [t for t in times if start <= t < start + timedelta(seconds=1)]
        assert len(within) <= 11


async def test_one_that_fails_gets_one_at_a_time_and_comes_last(
    db: Database, now: datetime
) -> None:
    """A failing endpoint leaves the room to those that answer, until it answers again."""
    sick = await add(db, now - timedelta(seconds=9), "transcript.ready")
    await ready(db, now - timedelta(seconds=9), 6)
    [claimed] = await claim(db, now - timedelta(seconds=9), limit=1)
    await settle(db, claimed, now - timedelta(seconds=9), status=503)
    await add(db, now, "deal.updated")
    await tell(db, now, DEAL)
    got = await claim(db, now)
    assert [each.event_type for each in got] == ["deal.updated", "transcript.ready"]
    assert got[1].failures == 1
    await settle(db, got[1], now, status=200)
    assert len(await claim(db, now)) == 5
    async with db.look() as session:
        endpoint = await queries.endpoint(session, sick.id)
    assert (endpoint.failures, endpoint.failing_since) == (0, None)


async def test_those_that_fail_again_and_again_are_claimed_apart(
    db: Database, now: datetime
) -> None:
    """From the third failure in a row on an endpoint is in the lane of the failing, until one arrives."""
    sick = await add(db, now, "transcript.ready")
    await ready(db, now, 5)
    for failures in range(3):
        assert await claim(db, now, failing=True) == []
        [claimed] = await claim(db, now, failing=False, limit=1)
        assert claimed.failures == failures
        await settle(db, claimed, now, status=503)
    well = await add(db, now, "deal.updated")
    await tell(db, now, DEAL)
    async with db.look() as session:
        assert await queries.next_due(session) == (now, now)
        assert await queries.next_due(session, skip=[well.id]) == (None, now)
    assert [each.endpoint_id for each in await claim(db, now, failing=False)] == [well.id]
    [again] = await claim(db, now, failing=True)
    assert again.endpoint_id == sick.id
    await settle(db, again, now, status=200)
    assert await claim(db, now, failing=True) == []
    [last] = await claim(db, now, failing=False)
    assert last.endpoint_id == sick.id


async def test_one_that_has_failed_for_days_is_switched_off_and_told_of(
    db: Database, now: datetime
) -> None:
    """Three days without a success and twenty failures: off, with a reason, an event, and for the notice."""
    dead = await add(db, now, "transcript.ready")
    watcher = await add(db, now, "endpoint.*")
    await ready(db, now, 20)
    for claimed in await claim(db, now, per_endpoint=19):
        await settle(db, claimed, now, error="no answer came within 15 s")
    late = now + timedelta(days=3)
    async with db.look() as session:
        assert (await queries.endpoint(session, dead.id)).failures == 19
        assert await queries.switched_off(session) == []
    [one] = await claim(db, late)
    await settle(db, one, late, status=500)
    async with db.work() as session:
        [off] = await queries.switched_off(session)
        assert (off.id, off.enabled) == (dead.id, False)
        assert off.disabled_reason == "nothing has reached it since 2026-01-15 09:30 UTC"
        events = await publish(session)
        assert [event.type for event in events] == [EndpointDisabled.type]
        await service.fan_out(session, events, now=late)
    assert {each.endpoint_id for each in await claim(db, late)} == {watcher.id}
    async with db.work() as session:
        on = await service.set_enabled(session, dead.id, True, now=late)
        assert (on.failures, on.failing_since) == (0, None)


async def test_a_renewed_lease_ends_later(db: Database, now: datetime) -> None:
    """While a courier has a delivery in hand it stays its own; one whose lease was lost stays lost, and it
    is told so."""
    await add(db, now)
    await ready(db, now, 2)
    mine = await claim(db, now, limit=1)
    until = now + 2 * LEASE
    async with db.work() as session:
        assert await claims.renew(session, mine, until=until) == set()
    mine[0].leased_until = until
    [other] = await claim(db, now + LEASE)
    assert other.delivery_id != mine[0].delivery_id
    [stolen] = await claim(db, until, limit=1)
    async with db.work() as session:
        lost = await claims.renew(session, mine, until=until + LEASE)
        assert lost == {mine[0].delivery_id}
        taken = await session.get(Delivery, stolen.delivery_id)
        assert taken is not None
        assert taken.next_at == stolen.leased_until


# --- keeping endpoints -------------------------------------------------------------------------


async def test_a_rotation_signs_with_both_until_the_overlap_ends(
    db: Database, now: datetime
) -> None:
    """The new secret comes first; the old one signs too, and then no more."""
    async with db.work() as session:
        endpoint, old = await service.add_endpoint(
            session, options=OPTIONS, url="https://a.example/", events=["*"], now=now
        )
        new = await service.rotate_secret(
            session, endpoint.id, options=OPTIONS, overlap=timedelta(hours=1), now=now
        )
    await ready(db, now, 2)
    [during] = await claim(db, now, limit=1)
    [after] = await claim(db, now + timedelta(hours=1), limit=1)
    assert during.secrets == (new, old)
    assert after.secrets == (new,)


async def test_secrets_are_sealed_and_resealed(db: Database, now: datetime) -> None:
    """Nothing secret stands in the row; after resealing only the new key opens it."""
    old, new = new_key(), new_key()
    before = EndpointOptions(keys=(old,))
    async with db.work() as session:
        endpoint, secret = await service.add_endpoint(
            session,
            options=before,
            url="https://a.example/",
            events=["*"],
            headers={"Authorization": "Bearer swordfish"},
            now=now,
        )
        again = await service.rotate_secret(session, endpoint.id, options=before, now=now)
    async with db.work() as session:
        row = (await session.execute(text("SELECT * FROM endpoints"))).one()
        assert not any(word in str(row) for word in (secret, again, "swordfish"))
        assert await service.reseal(session, options=EndpointOptions(keys=(new, old))) == 1
    await ready(db, now, 1)
    with pytest.raises(CryptError, match="does not open with any of the keys"):
        await claim(db, now, sealer=Sealer([old]))
    [claimed] = await claim(db, now, sealer=Sealer([new]))
    assert claimed.secrets == (again, secret)
    assert claimed.headers == {"authorization": "Bearer swordfish"}


async def test_a_secret_from_before_there_were_keys_still_signs(
    db: Database, now: datetime
) -> None:
    """An endpoint of an older version works on, and is sealed by the next resealing."""
    endpoint = await add(db, now)
    async with db.work() as session:
        await session.execute(text("UPDATE endpoints SET secret = 'whsec_b2xk'"))
    await ready(db, now, 2)
    [claimed] = await claim(db, now, limit=1)
    assert claimed.secrets == ("whsec_b2xk",)
    async with db.work() as session:
        await service.reseal(session, options=OPTIONS)
        row = await queries.endpoint(session, endpoint.id)
        await session.refresh(row)
        assert row.secret.startswith("fernet:")


async def test_an_endpoint_is_changed_in_part(db: Database, now: datetime) -> None:
    """What is not named stays as it is; what was waiting goes to the new address."""
    endpoint = await add(db, now, "transcript.ready", description="Mine")
    await ready(db, now, 1)
    async with db.work() as session:
        changed = await service.update_endpoint(
            session,
            endpoint.id,
            {"url": "https://b.example/", "headers": {"X-Team": "blue"}, "events": ["call.*"]},
            options=OPTIONS,
            now=now,
        )
        assert (changed.description, changed.events) == ("Mine", ["call.*"])
    [claimed] = await claim(db, now)
    assert (claimed.url, claimed.headers) == ("https://b.example/", {"x-team": "blue"})


async def test_a_deleted_endpoint_is_gone_but_its_log_stays(db: Database, now: datetime) -> None:
    """No secret is left, nothing more is sent, nobody finds it; what was sent can still be looked up."""
    endpoint = await add(db, now, headers={"x-key": "1"})
    await ready(db, now, 1)
    async with db.work() as session:
        await service.remove_endpoint(session, endpoint.id, now=now)
    assert await claim(db, now) == []
    assert await ready(db, now, 1) == 0
    [entry] = await log(db)
    assert entry.delivery.state == "failed"
    assert (entry.endpoint.secret, entry.endpoint.headers) == ("", {})
    async with db.work() as session:
        assert await queries.endpoints(session) == []
        with pytest.raises(NotFound):
            await service.set_enabled(session, endpoint.id, True, now=now)


async def test_gone_removes_a_hook(db: Database, now: datetime) -> None:
    """410 to a REST hook means that its subscription ended."""
    await add(db, now, hook=True)
    await ready(db, now, 1)
    [claimed] = await claim(db, now)
    await settle(db, claimed, now, status=410)
    async with db.work() as session:
        assert await queries.endpoints(session) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"headers": {"Host": "x"}}, "host is set by the delivery itself"),
        ({"headers": {"webhook-id": "x"}}, "webhook-id is set by the delivery itself"),
        ({"headers": {"trunkline-event": "x"}}, "set by the delivery itself"),
        ({"headers": {"a b": "x"}}, "'a b' is no name of a header"),
        ({"headers": {"a": "x\r\nb: y"}}, "printable ASCII"),
        ({"headers": {"a": "é"}}, "printable ASCII"),
        ({"headers": {f"a{n}": "x" for n in range(21)}}, "at most 20 headers"),
        ({"rate_per_s": 0}, "1 to 1000"),
        ({"rate_per_s": 1001}, "1 to 1000"),
        ({"format": "xml"}, "known are standard, retell"),
        ({"format": "retell", "events": ["deal.*"]}, "none of these events exists in the format"),
        ({"description": "x" * 201}, "at most 200"),
        ({"ignored_sources": [""]}, "a name of 1 to 40"),
        ({"url": "http://b.example/"}, "must begin with https://"),
        ({"url": "https://169.254.169.254/"}, "metadata"),
        ({"events": ["call.endde"]}, "did you mean"),
    ],
)
async def test_what_an_endpoint_cannot_be_is_refused(
    sqlite_db: Database, now: datetime, fields: Any, sentence: str
) -> None:
    """Making and changing one refuse the same things, with what to write instead."""
    given = {"url": "https://a.example/", "events": ["*"], **fields}
    endpoint = await add(sqlite_db, now)
    async with sqlite_db.work() as session:
        with pytest.raises(Invalid, match=sentence):
            await service.add_endpoint(session, options=OPTIONS, now=now, **given)
        with pytest.raises(Invalid, match=sentence):
            await service.update_endpoint(session, endpoint.id, fields, options=OPTIONS, now=now)


async def test_nobody_hears_the_echo_of_what_they_wrote(db: Database, now: datetime) -> None:
    """An endpoint that ignores a source gets the other sources' events, and those without any."""
    await add(db, now, ignored_sources=["crm-sync"])
    echo = DealUpdated("deal_1", None, "Fiber", "crm-sync", {"stage": "a"}, {"stage": "b"}, None)
    assert await tell(db, now, echo, DEAL, TranscriptReady("call_1", 1)) == 2


async def test_a_retell_endpoint_gets_what_retell_has_a_name_for(
    db: Database, now: datetime
) -> None:
    """Of all events only those with a counterpart; the test event always."""
    endpoint = await add(db, now, format="retell")
    assert await tell(db, now, DEAL, CallAnswered("call_1", 10), EndpointTest(endpoint.id)) == 2


# --- repair ------------------------------------------------------------------------------------


async def failed(db: Database, now: datetime, count: int = 1) -> list[Claimed]:
    """Deliveries that were given up."""
    await ready(db, now, count)
    async with db.work() as session:
        await session.execute(update(Delivery).values(attempts=8))
    done: list[Claimed] = []
    while claimed := await claim(db, now):
        for each in claimed:
            await settle(db, each, now, status=500)
        done += claimed
    return done


async def test_one_can_be_sent_again_with_the_whole_schedule_before_it(
    db: Database, now: datetime
) -> None:
    """A dead letter, or one that arrived, is sent again; attempts are counted on, waits begin anew."""
    await add(db, now)
    [dead] = await failed(db, now)
    async with db.work() as session:
        await repair.resend(session, dead.delivery_id, now=now)
    [again] = await claim(db, now)
    assert again.number == 10
    assert await settle(db, again, now, status=500) == retry.RetryAt(now + timedelta(seconds=5))
    then = now + timedelta(seconds=5)
    [once_more] = await claim(db, then)
    assert await settle(db, once_more, then, status=200) == retry.Delivered()
    async with db.work() as session:
        await repair.resend(session, dead.delivery_id, now=then)
    [entry] = await log(db)
    assert (entry.delivery.state, entry.delivery.delivered_at) == ("pending", None)
    assert entry.attempts[1].next_at == then
    with pytest.raises(NotFound):
        async with db.work() as session:
            await repair.resend(session, "dlv_none", now=now)


async def test_nothing_is_sent_again_to_one_that_is_off(db: Database, now: datetime) -> None:
    """The refusal says why it is off and what to do first."""
    endpoint = await add(db, now)
    [dead] = await failed(db, now)
    async with db.work() as session:
        await service.set_enabled(session, endpoint.id, False, now=now)
        with pytest.raises(Conflict, match=r"switched off by hand.*switch it on first"):
            await repair.resend(session, dead.delivery_id, now=now)


@pytest.mark.parametrize("ordered", [False, True])
async def test_all_that_failed_since_a_moment_is_recovered(
    db: Database, now: datetime, ordered: bool
) -> None:
    """What failed before, or did not fail, is left alone; an ordered endpoint gets it in order."""
    endpoint = await add(db, now)
    await failed(db, now - timedelta(hours=2))
    await failed(db, now, 3)
    await ready(db, now, 1, call="call_2")
    async with db.work() as session:
        await service.update_endpoint(
            session, endpoint.id, {"ordered": ordered}, options=OPTIONS, now=now
        )
        count = await repair.recover(session, endpoint.id, since=now - timedelta(hours=1), now=now)
    assert count == 3
    rest = ["pending", "held", "held"] if ordered else ["pending"] * 3
    assert await states(db) == ["failed", *rest, "pending"]


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_filter_can_be_replayed(db: Database, now: datetime, ordered: bool) -> None:
    """A new endpoint gets what was told before it existed, page by page, of the types and time asked for."""
    await add(db, now)
    await ready(db, now - timedelta(days=2), 1)
    await ready(db, now, 3)
    await tell(db, now, DEAL, TURN)
    late = await add(db, now, ordered=ordered)
    total, after = 0, 0
    async with db.work() as session:
        while True:
            page = await repair.replay(
                session,
                late.id,
                events=["transcript.*"],
                since=now - timedelta(days=1),
                after=after,
                limit=2,
                now=now,
            )
            total += page.count
            if page.after is None:
                break
            after = page.after
        own = await queries.deliveries(session, endpoint_id=late.id)
    assert total == 3
    assert {entry.delivery.event_type for entry in own} == {"transcript.ready"}
    assert sorted(entry.delivery.state for entry in own) == (
        ["held", "held", "pending"] if ordered else ["pending"] * 3
    )
    # Once more: what arrived is sent again, what is on its way is left alone.
    [first, *_] = [each for each in await claim(db, now) if each.endpoint_id == late.id]
    await settle(db, first, now, status=200)
    async with db.work() as session:
        page = await repair.replay(session, late.id, subject="call_1", since=now, now=now)
    assert page == repair.Replay(1, None)


async def test_a_sample_goes_to_its_endpoint_alone_and_says_so(db: Database, now: datetime) -> None:
    """Whatever it listens to, it gets a body of the type asked for, marked as a sample."""
    await add(db, now)
    asked = await add(db, now, "deal.updated")
    async with db.work() as session:
        await repair.send_sample(session, asked.id, "call.ended", now=now)
        await service.send_test(session, asked.id, now=now)
        assert await service.fan_out(session, await publish(session), now=now) == 2
        with pytest.raises(Invalid, match="did you mean"):
            await repair.send_sample(session, asked.id, "call.endet", now=now)
        with pytest.raises(Invalid, match="name one event"):
            await repair.send_sample(session, asked.id, "call.*", now=now)
    sample, test = await claim(db, now)
    assert {sample.endpoint_id, test.endpoint_id} == {asked.id}
    assert b'"sample":true' in sample.body
    assert (sample.event_type, test.event_type) == ("call.ended", "endpoint.test")


async def test_the_log_is_kept_for_a_time(db: Database, now: datetime) -> None:
    """Old deliveries go with their attempts, dead letters later, what is under way never."""
    await add(db, now)
    old = now - timedelta(days=40)
    await failed(db, old, 1)
    await ready(db, old, 2)
    [arrived, *_] = await claim(db, old, limit=1)
    await settle(db, arrived, old, status=200)
    await ready(db, now, 1)
    gone: dict[str, Any] = {"delivered_before": now - timedelta(days=30), "failed_before": old}
    async with db.work() as session:
        assert await outcomes.prune(session, **gone) == 1
    assert sorted(await states(db)) == ["failed", "pending", "pending"]
    async with db.work() as session:
        later = {**gone, "failed_before": now - timedelta(days=30)}
        assert await outcomes.prune(session, **later) == 1
        attempts = await session.scalar(select(func.count()).select_from(Attempt))
    assert attempts == 0


# --- reads -------------------------------------------------------------------------------------


async def test_deliveries_are_paged_newest_first(db: Database, now: datetime) -> None:
    """Pages follow each other without gap or repeat, for all endpoints or for one."""
    one = await add(db, now)
    await add(db, now, "transcript.ready")
    await ready(db, now, 5)
    pages: list[str] = []
    after = None
    async with db.look() as session:
        while page := await queries.deliveries(session, after=after, limit=4):
            pages += [entry.delivery.id for entry in page]
            after = pages[-1]
        own = await queries.deliveries(session, endpoint_id=one.id)
    assert len(pages) == 10
    assert pages == sorted(set(pages), reverse=True)
    assert len(own) == 5


async def test_the_next_due_delivery_is_found_by_index(db: Database, now: datetime) -> None:
    """Neither finding who is due nor claiming reads through the queue: each uses the partial index."""
    endpoint = await add(db, now)
    await ready(db, now, 50)
    async with db.work() as session:
        if db.dialect == "postgresql":
            # A table this small would be read whole, rightly.
            await session.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if db.dialect == "sqlite" else "EXPLAIN "
        due = select(Delivery.id).where(
            Delivery.endpoint_id == endpoint.id, queries.is_pending(), Delivery.next_at <= now
        )
        for query in (select(queries.first_due()).select_from(Endpoint), due):
            sql = query.compile(
                dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}
            )
            plan = (await session.execute(text(explain + str(sql)))).all()
            assert "ix_deliveries_due" in str(plan)
            assert db.dialect == "postgresql" or "ix_deliveries_due (endpoint_id=?" in str(plan)
