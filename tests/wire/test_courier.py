"""The courier delivers over real HTTP: signed, retried, bounded, and never lost."""

import asyncio
import contextlib
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, update
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from trunkline.courier import Courier
from trunkline.errors import Unavailable
from trunkline.events import DealUpdated, TranscriptReady
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.outbox.record import record
from trunkline.sandbox.receiver import Answer, Receiver
from trunkline.webhooks import queries, service, signing
from trunkline.webhooks.models import Delivery
from trunkline.webhooks.options import CourierOptions, EndpointOptions
from trunkline.webhooks.queries import DeliveryLog

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

HOUR = timedelta(hours=1)
# Only a wake-up or a due time ends a wait: nothing is delivered by looking often enough.
# Every receiver here is on loopback.
HERE = EndpointOptions(keys=(new_key(),), allow=("127.0.0.1", "receiver.example"))
PATIENT = CourierOptions(HERE, idle=HOUR)
HASTY = CourierOptions(HERE, idle=HOUR, total=timedelta(seconds=1))


class Jitter:
    """A fixed jitter that tells when an attempt is about to be settled."""

    def __init__(self, part: float) -> None:
        self._part = part
        self.asked = asyncio.Event()

    def __call__(self) -> float:
        self.asked.set()
        return self._part


@contextlib.asynccontextmanager
async def running(
    db: Database,
    options: CourierOptions = PATIENT,
    *,
    jitter: Callable[[], float] = lambda: 0.0,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Courier]:
    """A courier at work; when the block ends, what it began is settled. Jitter 0: a retry is due at once."""
    courier = Courier(db, options, clock, jitter=jitter)
    task = asyncio.create_task(courier.run())
    try:
        async with asyncio.timeout(60):
            yield courier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def subscribe(db: Database, url: str, *events: str, **more: Any) -> str:
    async with db.work() as session:
        _, secret = await service.add_endpoint(
            session, options=HERE, url=url, events=events or ["*"], now=utc_now(), **more
        )
    return secret


@contextlib.asynccontextmanager
async def receiving(db: Database, *events: str, **more: Any) -> AsyncIterator[Receiver]:
    """A receiver that is subscribed and knows its secret."""
    async with Receiver() as receiver:
        receiver.secret = await subscribe(db, receiver.url, *events, **more)
        yield receiver


async def tell(db: Database, count: int = 1, *, first: int = 1) -> None:
    """Commit *count* events of one call."""
    async with db.work() as session:
        for number in range(first, first + count):
            await record(session, TranscriptReady("call_1", turns=number), now=utc_now())


async def log(db: Database) -> list[DeliveryLog]:
    async with db.look() as session:
        return await queries.deliveries_of_subject(session, "call_1")


async def test_an_event_arrives_signed_and_is_stored_as_delivered(db: Database) -> None:
    """The official library verifies it; id and bytes are the event's; the attempt is stored."""
    async with receiving(db) as receiver, running(db):
        receiver.answer(Answer(201, {"x-trace": "42"}, b"thanks"))
        await tell(db)
        [got] = await receiver.until(lambda received: len(received) == 1)
    assert got.verified
    assert got.body["type"] == got.type == "transcript.ready"
    assert got.body["data"] == {"call_id": "call_1", "turns": 1, "seq": 1}
    assert got.raw.startswith(b'{"type":"transcript.ready","timestamp":"')
    assert got.headers["content-type"] == "application/json"
    [entry] = await log(db)
    assert entry.delivery.state == "delivered"
    assert entry.delivery.event_id == got.event_id
    [attempt] = entry.attempts
    assert (attempt.status, attempt.error, attempt.response_body) == (201, None, "thanks")
    assert attempt.response_headers is not None
    assert attempt.response_headers["x-trace"] == "42"
    assert attempt.request_headers["webhook-signature"] == got.headers["webhook-signature"]


async def test_a_body_changed_by_one_byte_fails(sqlite_db: Database) -> None:
    """Whichever byte of body, id or time is changed, the signature no longer holds."""
    async with receiving(sqlite_db) as receiver, running(sqlite_db):
        await tell(sqlite_db)
        [got] = await receiver.until(lambda received: len(received) == 1)
    assert receiver.secret
    proof = Webhook(receiver.secret)
    headers = dict(got.headers)
    proof.verify(got.raw, headers)
    for index in range(len(got.raw)):
        changed = bytes([*got.raw[:index], got.raw[index] ^ 1, *got.raw[index + 1 :]])
        with pytest.raises(WebhookVerificationError):
            proof.verify(changed, headers, json_parse=False)
    later = str(int(headers["webhook-timestamp"]) + 1)
    for tampered in ({"webhook-id": "evt_other"}, {"webhook-timestamp": later}):
        with pytest.raises(WebhookVerificationError):
            proof.verify(got.raw, {**headers, **tampered})


def test_two_secrets_both_verify() -> None:
    """While a secret is being replaced, receivers with the old one and with the new one both accept."""
    old, new, other = (signing.new_secret() for _ in range(3))
    body = '{"name":"Zoë"}'.encode()
    headers = signing.headers(body, event_id="evt_1", at=utc_now(), secrets=[new, old])
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers) == {"name": "Zoë"}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)


async def test_a_failure_is_tried_again_with_the_same_id(db: Database) -> None:
    """After 500 and 302 comes a 200: three attempts, one id, each signed; then no more."""
    async with receiving(db) as receiver, running(db):
        receiver.answer(500, 302, 200)
        await tell(db)
        got = await receiver.until(lambda received: len(received) == 3)
        await tell(db, first=2)
        await receiver.until(lambda received: len(received) == 4)
    assert len({each.event_id for each in got[:3]}) == 1
    assert all(each.verified for each in got)
    first, second = await log(db)
    assert [attempt.status for attempt in first.attempts] == [500, 302, 200]
    assert [attempt.number for attempt in first.attempts] == [1, 2, 3]
    assert [attempt.status for attempt in second.attempts] == [200]


async def test_a_retry_waits_for_its_time(db: Database) -> None:
    """Until the clock says so the delivery rests; once it does, a woken courier sends it."""
    offset = timedelta(0)
    jitter = Jitter(1.0)

    def clock() -> datetime:
        return utc_now() + offset

    async with receiving(db) as receiver, running(db, jitter=jitter, clock=clock) as courier:
        receiver.answer(503)
        await tell(db)
        await jitter.asked.wait()
        await tell(db, first=2)
        await receiver.until(lambda received: len(received) == 2)
        assert [each.body["data"]["turns"] for each in receiver.received] == [1, 2]
        offset = timedelta(minutes=1)
        courier.wake()
        await receiver.until(lambda received: len(received) == 3)
    assert receiver.received[2].event_id == receiver.received[0].event_id
    assert all(each.verified for each in receiver.received)


async def test_gone_disables_and_tells_the_others(db: Database) -> None:
    """410 ends it for that endpoint; another one hears endpoint.disabled."""
    async with (
        receiving(db, "transcript.ready") as gone,
        receiving(db, "endpoint.*") as watcher,
        running(db),
    ):
        gone.answer(410)
        await tell(db)
        [told] = await watcher.until(lambda received: len(received) == 1)
        await tell(db, first=2)
    assert told.type == "endpoint.disabled"
    assert told.verified
    assert told.body["data"]["reason"] == "the receiver answered 410 Gone"
    assert len(gone.received) == 1
    [entry] = await log(db)
    assert entry.delivery.state == "failed"
    assert not entry.endpoint.enabled


async def test_one_that_hangs_delays_no_other(db: Database) -> None:
    """While one receiver answers nothing, it holds its eight attempts and another gets everything."""
    async with receiving(db) as stuck, receiving(db) as quick, running(db):
        stuck.hold()
        await tell(db, 20)
        await quick.until(lambda received: len(received) == 20)
        await stuck.until(lambda received: len(received) == 8)
        await tell(db, 5, first=21)
        await quick.until(lambda received: len(received) == 25)
        assert len(stuck.received) == 8
        stuck.release()
        await stuck.until(lambda received: len(received) == 25)
    assert len(await log(db)) == 50
    assert all(entry.delivery.state == "delivered" for entry in await log(db))


async def test_those_that_hang_leave_room_for_the_others(sqlite_db: Database) -> None:
    """Though attempts that hang are as many as there may be at once, another endpoint gets its events."""
    few = CourierOptions(HERE, idle=HOUR, max_in_flight=4, max_per_endpoint=4)
    async with (
        receiving(sqlite_db, "transcript.*") as hanging,
        receiving(sqlite_db, "deal.*") as other,
        running(sqlite_db, few),
    ):
        hanging.hold()
        await tell(sqlite_db, 40)
        await hanging.until(lambda received: len(received) == 4)
        async with sqlite_db.work() as session:
            event = DealUpdated("deal_1", None, "Fiber", "api", {}, {}, None)
            await record(session, event, now=utc_now())
        await other.until(lambda received: len(received) == 1)
        assert len(hanging.received) == 4
        hanging.release()
        await hanging.until(lambda received: len(received) == 40)


async def test_one_that_fails_again_and_again_still_gets_everything(db: Database) -> None:
    """Down for many attempts, then up: what failed and what waited arrives, and each try is in the log."""
    async with receiving(db) as receiver, running(db):
        receiver.answer(*[503] * 6)
        await tell(db, 10)
        await receiver.until(lambda received: [got.status for got in received].count(200) == 10)
    entries = await log(db)
    assert {entry.delivery.state for entry in entries} == {"delivered"}
    assert sum(len(entry.attempts) for entry in entries) == 16


async def test_two_couriers_share_the_work(db_url: str) -> None:
    """Each event arrives exactly once though two couriers publish, claim and send at the same time."""
    one, two = (open_database(DatabaseOptions(db_url)) for _ in range(2))
    try:
        async with receiving(one) as receiver, running(one), running(two):
            for batch in range(6):
                await tell(one, 10, first=batch * 10)
            got = await receiver.until(lambda received: len(received) >= 60)
        assert sorted(each.body["data"]["turns"] for each in got) == list(range(60))
        assert all(each.verified for each in got)
        assert all(len(entry.attempts) == 1 for entry in await log(one))
    finally:
        await one.close()
        await two.close()


async def test_a_commit_in_another_process_is_delivered_without_waiting(db_url: str) -> None:
    """An idle courier, which by itself would look again in an hour, hears of a commit it did not make."""
    ours, theirs = (open_database(DatabaseOptions(db_url)) for _ in range(2))
    try:
        async with receiving(ours) as receiver, running(ours):
            for number in range(1, 4):
                await tell(theirs, first=number)
                await receiver.until(lambda received, n=number: len(received) == n)  # type: ignore[misc]
    finally:
        await ours.close()
        await theirs.close()


async def test_what_a_killed_courier_had_in_hand_is_sent_again_after_its_lease(
    db: Database,
) -> None:
    """A courier that ends in mid-delivery leaves it leased; the next one sends it, with the same id."""
    async with receiving(db) as receiver:
        receiver.hold()
        async with running(db, CourierOptions(HERE, idle=HOUR, grace=timedelta(0))):
            await tell(db)
            await receiver.until(lambda received: len(received) == 1)
        receiver.release()
        [entry] = await log(db)
        assert (entry.delivery.state, entry.attempts) == ("pending", [])
        # The lease still runs: another courier may not touch it.
        async with running(db):
            await tell(db, first=2)
            await receiver.until(lambda received: len(received) == 2)
        assert receiver.received[1].body["data"]["turns"] == 2
        async with running(db, clock=lambda: utc_now() + PATIENT.lease):
            await receiver.until(lambda received: len(received) == 3)
    assert receiver.received[2].event_id == receiver.received[0].event_id
    assert all(entry.delivery.state == "delivered" for entry in await log(db))


async def test_asked_to_stop_it_ends_what_it_began(db: Database) -> None:
    """Attempts under way are finished and settled before the courier ends."""
    async with receiving(db) as receiver:
        receiver.hold()
        task = asyncio.create_task(Courier(db, PATIENT).run())
        await tell(db)
        await receiver.until(lambda received: len(received) == 1)
        task.cancel()
        receiver.release()
        with pytest.raises(asyncio.CancelledError):
            await task
    [entry] = await log(db)
    assert entry.delivery.state == "delivered"


async def test_a_failed_round_is_logged_and_work_goes_on(sqlite_db: Database) -> None:
    """An exception in a round ends neither the courier nor the delivery."""
    faults = [OSError("disk on fire"), RuntimeError("surprise")]

    def clock() -> datetime:
        if faults:
            raise faults.pop()
        return utc_now()

    quick = CourierOptions(HERE, idle=timedelta(milliseconds=5))
    with capture_logs() as logs:
        async with receiving(sqlite_db) as receiver, running(sqlite_db, quick, clock=clock):
            await tell(sqlite_db)
            await receiver.until(lambda received: len(received) == 1)
    assert [line["event"] for line in logs].count("courier_round_failed") == 2
    assert logs[-1]["event"] == "delivery_attempted"


async def test_one_that_cannot_be_settled_spoils_no_other(sqlite_db: Database) -> None:
    """Of two attempts under way, one for a delivery that is gone, the other is stored all the same."""
    with capture_logs() as logs:
        async with receiving(sqlite_db) as receiver, running(sqlite_db):
            receiver.hold()
            await tell(sqlite_db, 2)
            await receiver.until(lambda received: len(received) == 2)
            lost, kept = [entry.delivery for entry in await log(sqlite_db)]
            async with sqlite_db.work() as session:
                await session.execute(delete(Delivery).where(Delivery.id == lost.id))
            receiver.release()
    [entry] = await log(sqlite_db)
    assert (entry.delivery.id, entry.delivery.state) == (kept.id, "delivered")
    unsettled = [line["delivery_id"] for line in logs if line["event"] == "delivery_unsettled"]
    assert unsettled == [lost.id]


async def test_what_arrived_while_the_database_was_away_is_not_sent_again(
    postgres_server: "PostgresServer",
) -> None:
    """Every connection breaks in mid-delivery: the answer is kept and settled with the next connection."""
    name = postgres_server.clone()
    db = open_database(DatabaseOptions(postgres_server.url(name)))
    options = CourierOptions(HERE, idle=timedelta(milliseconds=20), lease=HOUR)
    jitter = Jitter(0.0)
    try:
        with capture_logs() as logs:
            async with receiving(db) as receiver, running(db, options, jitter=jitter):
                receiver.hold()
                await tell(db)
                await receiver.until(lambda received: len(received) == 1)
                postgres_server.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"  # noqa: S608 - a name that we made
                    f" WHERE datname = '{name}'"
                )
                receiver.release()
                await jitter.asked.wait()
        [entry] = await log(db)
    finally:
        await db.close()
        postgres_server.drop(name)
    assert entry.delivery.state == "delivered"
    assert len(entry.attempts) == len(receiver.received) == 1
    assert "courier_round_failed" not in {line["event"] for line in logs}
    assert "courier_database_away" in {line["event"] for line in logs}


async def test_what_was_queued_while_the_database_was_away_goes_on_at_once(
    postgres_server: "PostgresServer",
) -> None:
    """What a courier had claimed when every connection broke is still its own: no lease is waited for."""
    name = postgres_server.clone()
    db = open_database(DatabaseOptions(postgres_server.url(name)))
    options = CourierOptions(HERE, idle=HOUR, lease=HOUR, max_per_endpoint=1)
    try:
        async with receiving(db) as receiver, running(db, options):
            receiver.hold()
            await tell(db, 3)
            await receiver.until(lambda received: len(received) == 1)
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"  # noqa: S608 - a name that we made
                f" WHERE datname = '{name}'"
            )
            receiver.release()
            await receiver.until(lambda received: len(received) == 3)
        delivered = await log(db)
    finally:
        await db.close()
        postgres_server.drop(name)
    assert [entry.delivery.state for entry in delivered] == ["delivered"] * 3
    assert [len(entry.attempts) for entry in delivered] == [1, 1, 1]


async def test_what_another_courier_has_by_now_is_not_sent(db: Database) -> None:
    """A courier held up for longer than its lease sends nothing of its queue that was given away."""
    ahead = timedelta(0)
    options = CourierOptions(HERE, idle=HOUR, max_per_endpoint=1)
    async with receiving(db) as receiver:
        receiver.hold()
        async with running(db, options, clock=lambda: utc_now() + ahead):
            await tell(db, 2)
            await receiver.until(lambda received: len(received) == 1)
            # Its clock jumps past the lease of both, and the second is somebody else's.
            ahead = HOUR
            async with db.work() as session:
                others = await session.scalars(
                    update(Delivery)
                    .where(Delivery.event_id != receiver.received[0].event_id)
                    .values(next_at=utc_now() + 2 * HOUR)
                    .returning(Delivery.id)
                )
                [other] = others.all()
            receiver.release()
            await tell(db, 1, first=3)
            await receiver.until(lambda received: len(received) == 2)
    assert [got.body["data"]["turns"] for got in receiver.received] == [1, 3]
    [taken] = [entry for entry in await log(db) if entry.delivery.id == other]
    assert (taken.delivery.state, taken.attempts) == ("pending", [])


async def test_nothing_of_the_environment_or_of_a_receiver_steers_a_request(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies of the environment are not used, and cookies are not kept."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiving(sqlite_db) as receiver, running(sqlite_db):
        receiver.answer(Answer(500, {"set-cookie": "track=1; Path=/"}))
        await tell(sqlite_db)
        got = await receiver.until(lambda received: len(received) == 2)
    assert "cookie" not in got[1].headers


# --- receivers that behave badly ---------------------------------------------------------------

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[str]:
    """A raw TCP server that reads one request's head and then does as *talk* does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # what is left of the request, then nothing until the other side gives up
    await reader.read()


async def drips_its_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"x-drop: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)  # pace: the drip


async def drips_its_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"content-length: 1000\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)  # pace: the drip


async def never_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"\r\n")
    while True:
        writer.write(b"spam" * 4096)
        await writer.drain()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def hangs_up_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"content-length: 1000\r\n\r\nhalf")
    await writer.drain()


async def speaks_smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP ready\r\n\r\n")
    await writer.drain()


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"x-spam: " + b"y" * 4096 + b"\r\n")
        await writer.drain()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"content-length: 260\r\n\r\n" + bytes(range(256)) + b"\0\xff\0\xc3")
    await writer.drain()


async def garbage_for_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"transfer-encoding: chunked\r\n\r\nno number\r\n\0\0\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("talk", "state", "status", "sentence"),
    [
        (silent, "pending", None, "no answer came within 1 s"),
        (drips_its_head, "pending", None, "no answer came within 1 s"),
        # It did say 200: sending again would make it do the same thing twice.
        (drips_its_body, "delivered", 200, "the body did not end within 1 s"),
        (never_ends, "delivered", 200, None),  # what we keep of it is all we read
        (hangs_up, "pending", None, "not HTTP as it should be"),
        (hangs_up_in_the_body, "delivered", 200, "not HTTP as it should be"),
        (garbage, "delivered", 200, None),
        (garbage_for_chunks, "delivered", 200, "not HTTP as it should be"),
        (speaks_smtp, "pending", None, "not HTTP as it should be"),
        (endless_head, "pending", None, "not HTTP as it should be"),  # httpcore's limit is 100 kB
    ],
)
async def test_a_bad_receiver_costs_one_bounded_attempt(
    sqlite_db: Database, talk: Talk, state: str, status: int | None, sentence: str | None
) -> None:
    """Whatever it does, the attempt ends in time, keeps at most 4 kB and says in words what was wrong."""
    jitter = Jitter(1.0)
    # Only those who would never end need the short limit; the others must not race against it.
    options = HASTY if sentence and "within" in sentence else PATIENT
    async with server(talk) as url:
        await subscribe(sqlite_db, url)
        async with running(sqlite_db, options, jitter=jitter):
            await tell(sqlite_db)
            await jitter.asked.wait()
    [entry] = await log(sqlite_db)
    [attempt] = entry.attempts
    assert (entry.delivery.state, attempt.status) == (state, status)
    if sentence is None:
        assert attempt.error is None
    else:
        assert sentence in (attempt.error or "")
    assert len(attempt.response_body or "") <= 4_096
    assert (attempt.response_body is None) is (status is None)


async def test_of_an_answer_its_first_4_kb_are_kept(db: Database) -> None:
    """The cut is at the byte, also in the middle of a character; what cannot be read as text is replaced."""
    body = b"a" * 4_093 + "\N{EURO SIGN}".encode() * 2 + b"b" * 5_000
    async with receiving(db) as receiver, running(db):
        receiver.answer(Answer(200, {}, body), Answer(200, {}, b"\0nul and \xff"))
        await tell(db, 2)
        await receiver.until(lambda received: len(received) == 2)
    kept = {entry.attempts[0].response_body for entry in await log(db)}
    assert kept == {"a" * 4_093 + "\N{EURO SIGN}", "\ufffdnul and \ufffd"}


async def test_of_an_answer_of_1_gb_almost_nothing_is_taken(sqlite_db: Database) -> None:
    """It reads 4 kB and hangs up: what is sent further fills the sockets' buffers, not the memory."""
    sent, gone = 0, asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"content-length: 1000000000\r\n\r\n")
        try:
            while sent < 1_000_000_000:
                writer.write(b"spam" * 16_384)
                await writer.drain()
                sent += 65_536
        finally:
            gone.set()

    async with server(floods) as url:
        await subscribe(sqlite_db, url)
        async with running(sqlite_db):
            await tell(sqlite_db)
            tracemalloc.start()
            try:
                await gone.wait()
                _, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    [entry] = await log(sqlite_db)
    assert entry.delivery.state == "delivered"
    assert entry.attempts[0].response_body == "spam" * 1_024
    # Linux gives a socket's buffers up to 6 and 4 MB.
    assert sent < 20_000_000
    assert most < 5_000_000


async def test_the_log_is_kept_as_long_as_the_settings_say(sqlite_db: Database) -> None:
    """A courier forgets what arrived long ago with its attempts; dead letters and what is new stay."""
    days = CourierOptions(HERE, idle=HOUR, keep_delivered=timedelta(days=30))
    started = utc_now()
    async with receiving(sqlite_db, "transcript.*") as receiver:
        async with running(sqlite_db, days):
            await tell(sqlite_db)
            await receiver.until(lambda received: len(received) == 1)
        receiver.answer(*[500] * 9)
        async with running(sqlite_db, days):
            await tell(sqlite_db, first=2)
            await receiver.until(lambda received: len(received) == 10)
        assert [e.delivery.state for e in await log(sqlite_db)] == ["delivered", "failed"]
        async with running(sqlite_db, days, clock=lambda: started + timedelta(days=29)):
            await tell(sqlite_db, first=3)
            await receiver.until(lambda received: len(received) == 11)
        assert len(await log(sqlite_db)) == 3
        async with running(sqlite_db, days, clock=lambda: started + timedelta(days=31)) as courier:
            await tell(sqlite_db, first=4)
            await receiver.until(lambda received: len(received) == 12)
            while len(await log(sqlite_db)) == 4:
                courier.wake()
                await asyncio.sleep(0)
    left = await log(sqlite_db)
    assert [(e.delivery.state, len(e.attempts)) for e in left] == [
        ("failed", 9), ("delivered", 1), ("delivered", 1)
    ]  # fmt: skip


def no_such_host(*arguments: object, **more: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:1/", "the connection was refused"),
        ("http://receiver.example/", "the host name was not found"),
    ],
)
async def test_a_receiver_that_is_not_there_is_told_in_words(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    """No connection is an attempt like any other: stored, with a reason people can read."""
    if "example" in url:
        monkeypatch.setattr(socket, "getaddrinfo", no_such_host)  # nobody asks a real name server
    jitter = Jitter(1.0)
    await subscribe(sqlite_db, url)
    async with running(sqlite_db, jitter=jitter):
        await tell(sqlite_db)
        await jitter.asked.wait()
    [entry] = await log(sqlite_db)
    [attempt] = entry.attempts
    assert (entry.delivery.state, attempt.status) == ("pending", None)
    assert sentence in (attempt.error or "")


async def test_tls_with_one_that_has_none_is_told_in_words(sqlite_db: Database) -> None:
    """https to a port that speaks plain HTTP fails with a word about TLS."""
    jitter = Jitter(1.0)
    async with Receiver() as receiver:
        await subscribe(sqlite_db, receiver.url.replace("http://", "https://"))
        async with running(sqlite_db, jitter=jitter):
            await tell(sqlite_db)
            await jitter.asked.wait()
    [entry] = await log(sqlite_db)
    assert "TLS failed" in (entry.attempts[0].error or "")


async def test_a_redirect_is_not_followed(sqlite_db: Database) -> None:
    """The place a receiver points to is never visited; the answer counts as a failure."""
    jitter = Jitter(1.0)
    async with Receiver() as elsewhere, receiving(sqlite_db) as receiver:
        receiver.answer(Answer(307, {"location": elsewhere.url}))
        async with running(sqlite_db, jitter=jitter):
            await tell(sqlite_db)
            await jitter.asked.wait()
        assert elsewhere.received == []
    [entry] = await log(sqlite_db)
    assert (entry.delivery.state, entry.attempts[0].status) == ("pending", 307)


# --- the sandbox's receiver --------------------------------------------------------------------


async def test_the_receiver_says_when_its_port_is_taken() -> None:
    """A taken port is one sentence with what to do."""
    async with Receiver() as first:
        with pytest.raises(Unavailable, match=f":{first.port} .*choose another port"):
            async with Receiver(port=first.port):
                pass


async def test_the_receiver_says_what_came_instead(sqlite_db: Database) -> None:
    """Waiting in vain names what did arrive."""
    async with receiving(sqlite_db) as receiver, running(sqlite_db):
        await tell(sqlite_db)
        await receiver.until(lambda received: len(received) == 1)
        with pytest.raises(TimeoutError, match=r"received: transcript\.ready → 200"):
            await receiver.until(lambda received: False, within=timedelta(milliseconds=1))


async def test_with_the_wrong_secret_nothing_verifies(sqlite_db: Database) -> None:
    """The receiver takes an event that it cannot verify, and says that it could not."""
    async with receiving(sqlite_db, "deal.*") as receiver, running(sqlite_db):
        receiver.secret = signing.new_secret()
        async with sqlite_db.work() as session:
            event = DealUpdated("deal_1", None, "Fiber", "api", {}, {}, None)
            await record(session, event, now=utc_now())
        [got] = await receiver.until(lambda received: len(received) == 1)
    assert not got.verified
    assert got.type == "deal.updated"
