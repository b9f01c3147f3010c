"""Endpoints, deliveries and attempts as they are stored."""

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from trunkline.errors import Invalid, NotFound
from trunkline.events import (
    DealUpdated,
    EndpointDisabled,
    EndpointTest,
    Event,
    TranscriptReady,
    TranscriptTurn,
)
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.outbox.record import record
from trunkline.webhooks import queries, retry, service
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.service import Claimed, Outcome

LEASE = timedelta(seconds=30)
TURN = TranscriptTurn("call_1", "turn_1", 1, "user", "Hello.", 0, 900, False)
DEAL = DealUpdated("deal_1", None, "Fiber", "call", {"stage": "a"}, {"stage": "b"}, None)


async def add(
    db: Database, now: datetime, *events: str, url: str = "https://a.example/"
) -> Endpoint:
    async with db.work() as session:
        endpoint, _ = await service.add_endpoint(session, url=url, events=events or ["*"], now=now)
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
        return await service.claim(session, **{"limit": 100, "lease": LEASE, "now": now, **more})


async def settle(
    db: Database, claimed: Claimed, now: datetime, *, jitter: float = 1.0, **outcome: Any
) -> retry.Decision:
    came = Outcome(claimed, started_at=now, ms=12, request_headers={"webhook-id": "x"}, **outcome)
    async with db.work() as session:
        [decision] = await service.settle(session, [came], jitter=lambda: jitter, now=now)
    return decision


async def log(db: Database) -> Sequence[queries.DeliveryLog]:
    async with db.look() as session:
        return await queries.deliveries(session)


# --- endpoints ---------------------------------------------------------------------------------


async def test_a_new_endpoint_has_its_own_secret(db: Database, now: datetime) -> None:
    """The secret is whsec_ and at least 24 random bytes, and no two endpoints share one."""
    async with db.work() as session:
        made = [
            await service.add_endpoint(session, url="http://127.0.0.1:1/", events=["*"], now=now)
            for _ in range(2)
        ]
    secrets = [secret for _, secret in made]
    assert [endpoint.secret for endpoint, _ in made] == secrets
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


async def test_a_claim_holds_all_that_is_sent(db: Database, now: datetime) -> None:
    """Address, secret, event and bytes come with the claim, so no transaction is needed while sending."""
    endpoint = await add(db, now, url="https://b.example/hook?key=1")
    await ready(db, now, 1)
    [claimed] = await claim(db, now)
    assert claimed.url == "https://b.example/hook?key=1"
    assert claimed.secrets == (endpoint.secret,)
    assert claimed.event_id.startswith("evt_")
    assert claimed.body.startswith(b'{"type":"transcript.ready","timestamp":')


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
        assert await queries.next_due(session) is None
    assert await claim(db, now) == []
    async with db.work() as session:
        await service.set_enabled(session, endpoint.id, True, now=now)
        assert await queries.next_due(session) == now
        assert await queries.next_due(session, skip=[endpoint.id]) is None
    assert len(await claim(db, now)) == 1


async def test_two_couriers_never_claim_the_same(db: Database, now: datetime) -> None:
    """A second claim, made while the first one's transaction is open, takes others (PostgreSQL) or waits."""
    await add(db, now)
    await ready(db, now, 6)
    async with db.work() as session:
        first = await service.claim(session, limit=3, lease=LEASE, now=now)
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
        assert await queries.next_due(session) == now + timedelta(seconds=90)


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
        assert await queries.next_due(session) == current.leased_until
    await settle(db, late, now + LEASE, status=200)
    [entry] = await log(db)
    assert (entry.delivery.state, entry.delivery.attempts) == ("delivered", 2)
    # And the current one's failure does not take the success back.
    await settle(db, current, now + LEASE, status=500)
    [entry] = await log(db)
    assert (entry.delivery.state, len(entry.attempts)) == ("delivered", 3)


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
