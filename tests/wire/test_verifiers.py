"""What we sign is verified by the official libraries, and by those of whoever we stand in for."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.courier import Courier
from trunkline.events import SAMPLES, CallAnalyzed, CallAnswered, TranscriptReady
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.outbox.record import record
from trunkline.sandbox.receiver import Received, Receiver
from trunkline.webhooks import queries, service
from trunkline.webhooks.options import CourierOptions, EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make, Need

HERE = EndpointOptions(keys=(new_key(),), allow=("127.0.0.1",))
JS = Path(__file__).with_name("js")


@contextlib.asynccontextmanager
async def courier(db: Database) -> AsyncIterator[None]:
    task = asyncio.create_task(
        Courier(db, CourierOptions(HERE, idle=timedelta(hours=1)), jitter=lambda: 0.0).run()
    )
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def subscribe(db: Database, receiver: Receiver, **more: Any) -> tuple[str, str]:
    async with db.work() as session:
        endpoint, secret = await service.add_endpoint(
            session, options=HERE, url=receiver.url, events=["*"], now=utc_now(), **more
        )
    return endpoint.id, secret


async def tell_everything(db: Database) -> int:
    """One of each event but those that only an endpoint's name reaches."""
    told = [sample for sample in SAMPLES if sample.type not in ("endpoint.test", "transcript.turn")]
    told = [sample for sample in told if sample.type != "dtmf.received"]
    for sample in told:
        async with db.work() as session:
            await record(session, sample, now=utc_now())
    return len(told)


async def in_javascript(secret: str, got: Sequence[Received]) -> list[bool]:
    """Which of *got* the official JavaScript library verifies."""
    given = [
        {"secret": secret, "headers": dict(each.headers), "body": each.raw.decode()} for each in got
    ]
    node = await asyncio.create_subprocess_exec(
        "node",
        str(JS / "verify.cjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await asyncio.wait_for(node.communicate(json.dumps(given).encode()), 60)
    found: list[bool] = json.loads(answer)
    return found


def in_python(secret: str, got: Sequence[Received]) -> list[bool]:
    """Which of *got* the official Python library verifies."""
    found = []
    for each in got:
        try:
            Webhook(secret).verify(each.raw, dict(each.headers))
        except WebhookVerificationError:
            found.append(False)
        else:
            found.append(True)
    return found


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_every_delivery_verifies_also_while_the_secret_is_replaced(
    sqlite_db: Database, need: "Need", language: str
) -> None:
    """Every kind of event, before, during and after a rotation, with the secret the receiver has: all
    verify; with one byte changed, none does."""
    if language == "javascript":
        ready = shutil.which("node") and (JS / "node_modules" / "standardwebhooks").is_dir()
        need("standardwebhooks for JavaScript", bool(ready), f"npm ci --prefix {JS}")

    async def verified(secret: str, got: Sequence[Received]) -> list[bool]:
        return (
            await in_javascript(secret, got) if language == "javascript" else in_python(secret, got)
        )

    async with Receiver() as receiver, courier(sqlite_db):
        id_, old = await subscribe(sqlite_db, receiver)
        count = await tell_everything(sqlite_db)
        await receiver.until(lambda got: len(got) == count)
        async with sqlite_db.work() as session:
            new = await service.rotate_secret(session, id_, options=HERE, now=utc_now())
        await tell_everything(sqlite_db)
        await receiver.until(lambda got: len(got) == 2 * count)
        async with sqlite_db.work() as session:
            newest = await service.rotate_secret(
                session, id_, options=HERE, overlap=timedelta(0), now=utc_now()
            )
        await tell_everything(sqlite_db)
        got = await receiver.until(lambda got: len(got) == 3 * count)
    before, during, after = got[:count], got[count : 2 * count], got[2 * count :]
    assert all(await verified(old, [*before, *during]))
    assert all(await verified(new, during))
    assert all(await verified(newest, after))
    assert not any(await verified(old, after))
    assert not any(await verified(new, [*before, *after]))
    changed = [
        Received(**{**vars(each), "raw": each.raw[:-2] + bytes([each.raw[-2] ^ 1]) + each.raw[-1:]})
        for each in during
    ]
    assert not any(await verified(new, changed))


async def test_headers_tell_type_and_attempt_and_what_the_endpoint_wants(
    sqlite_db: Database,
) -> None:
    """Event type and attempt number come as headers, the endpoint's own beside them; the log hides those."""
    async with Receiver() as receiver, courier(sqlite_db):
        _, receiver.secret = await subscribe(
            sqlite_db, receiver, headers={"Authorization": "Bearer swordfish"}
        )
        receiver.answer(500)
        async with sqlite_db.work() as session:
            await record(session, TranscriptReady("call_1", 1), now=utc_now())
        got = await receiver.until(lambda got: len(got) == 2)
    assert [each.headers["trunkline-attempt"] for each in got] == ["1", "2"]
    assert {each.headers["trunkline-event"] for each in got} == {"transcript.ready"}
    assert {each.headers["authorization"] for each in got} == {"Bearer swordfish"}
    assert all(each.verified for each in got)
    async with sqlite_db.look() as session:
        [log] = await queries.deliveries(session)
    assert "swordfish" not in str([attempt.request_headers for attempt in log.attempts])
    assert log.attempts[0].request_headers["authorization"] == "(hidden)"
    assert log.attempts[0].next_at is not None


async def test_a_retell_endpoint_gets_retells_events(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """Names, shape, times in milliseconds, transcript, end reason and signature are those of Retell's own
    documentation and library."""
    async with Receiver() as receiver, courier(sqlite_db):
        _, secret = await subscribe(sqlite_db, receiver, format="retell", ordered=True)
        async with sqlite_db.work() as session:
            call = await make.call(session, channel="sip")
            lease = await calls.take_lease(session, call.id, now=now)
            await calls.answer(session, lease, now=now + timedelta(seconds=2))
        await receiver.until(lambda got: len(got) == 1)
        async with sqlite_db.work() as session:
            await calls.end(
                session,
                call.id,
                EndReason.CALLER_HANGUP,
                now=now + timedelta(seconds=62),
                lease=lease,
            )
            analysis = CallAnalyzed(call.id, "All well.", None, "positive", True, False, {"x": 1})
            await record(session, analysis, now=now)
        got = await receiver.until(lambda got: len(got) == 3)
    started, ended, analyzed = (each.body for each in got)
    assert [each["event"] for each in (started, ended, analyzed)] == [
        "call_started",
        "call_ended",
        "call_analyzed",
    ]
    assert started["call"]["call_id"] == call.id
    assert (started["call"]["call_type"], started["call"]["direction"]) == ("phone_call", "inbound")
    assert (started["call"]["from_number"], started["call"]["to_number"]) == (
        "+12025550134",
        "+12025550100",
    )
    assert ended["call"]["call_status"] == "ended"
    assert ended["call"]["disconnection_reason"] == "user_hangup"
    assert ended["call"]["end_timestamp"] - ended["call"]["start_timestamp"] == 60_000
    assert analyzed["call"]["call_analysis"]["user_sentiment"] == "Positive"
    assert analyzed["call"]["call_analysis"]["custom_analysis_data"] == {"x": 1}
    for each in got:
        # What retell-sdk's verify does.
        match = re.fullmatch(r"v=(\d+),d=(.*)", each.headers["x-retell-signature"])
        assert match
        digest = hmac.new(secret.encode(), each.raw + match[1].encode(), hashlib.sha256)
        assert digest.hexdigest() == match[2]
        assert all(in_python(secret, [each]))


async def test_a_call_that_is_gone_is_told_by_its_id(sqlite_db: Database) -> None:
    """Also when a call's rows were deleted the Retell endpoint hears of it."""
    async with Receiver() as receiver, courier(sqlite_db):
        await subscribe(sqlite_db, receiver, format="retell")
        async with sqlite_db.work() as session:
            await record(session, CallAnswered("call_gone", 900), now=utc_now())
        [got] = await receiver.until(lambda got: len(got) == 1)
    assert got.body == {"event": "call_started", "call": {"call_id": "call_gone"}}
