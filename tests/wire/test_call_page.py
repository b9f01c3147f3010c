"""What can be put right on the page of a call, over forms alone."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access.models import Audit
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.calls.usage import Price, Used, bill
from trunkline.crm import queries as crm_queries
from trunkline.crm import service as crm
from trunkline.kit.blobs import Blobs
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks import queries as webhook_queries
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.models import Delivery
from trunkline.webhooks.options import EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def pages(
    db: Database, blobs: Blobs, now: datetime, browse: "Browse"
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(db, blobs, WebOptions(login=False), clock=lambda: now + 10 * MINUTE)
    async with browse(app) as client:
        yield client


async def a_call_that_moved_a_deal(db: Database, make: "Make", now: datetime) -> tuple[str, str]:
    """Ids of the call and of the deal, which went from proposal to won."""
    async with db.work() as session:
        deal = await make.deal(session)
        call = await make.call(session, now=now)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
        await crm.move_deal(session, deal.id, "won", cause=crm.Cause("call", call.id), now=now)
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=now + MINUTE)
    return call.id, deal.id


async def the_change(db: Database, call_id: str) -> str:
    async with db.look() as session:
        (change,) = await crm_queries.changes_of_call(session, call_id)
    return change.id


async def test_a_change_is_undone_and_told(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Undo puts the deal back, tells of it by an event and in the audit, and keeps the list's filters."""
    call_id, deal_id = await a_call_that_moved_a_deal(db, make, now)
    change = await the_change(db, call_id)
    before = (await pages.get(f"/calls/{call_id}?tag=vip")).text
    assert f'action="/calls/{call_id}/changes/{change}/undo?tag=vip"' in before
    answer = await pages.post(f"/calls/{call_id}/changes/{change}/undo?tag=vip&t=3")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/calls/{call_id}?tag=vip&done=undone#changes"
    async with db.look() as session:
        assert (await crm_queries.deal(session, deal_id)).stage == "proposal"
        (event,) = await session.scalars(select(EventRow).where(EventRow.type == "change.undone"))
        assert event.body["data"]["change_id"] == change
        (noted,) = await session.scalars(select(Audit))
    assert (noted.action, noted.subject) == ("change.undone", change)
    after = (await pages.get(answer.headers["location"])).text
    assert "The change was undone." in after
    assert "/undo" not in after
    assert "Undid a change in the CRM" in (await pages.get("/audit")).text


async def test_what_cannot_be_undone_says_why(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """What has changed since, or is another call's, is refused on the page, and nothing happens."""
    call_id, deal_id = await a_call_that_moved_a_deal(db, make, now)
    change = await the_change(db, call_id)
    async with db.work() as session:
        await crm.move_deal(session, deal_id, "lost", cause=crm.Cause("person"), now=now + MINUTE)
        other = await make.call(session, room="room-2", now=now)
    since = await pages.post(f"/calls/{call_id}/changes/{change}/undo")
    assert since.status_code == 409
    assert 'role="alert"' in since.text
    strange = await pages.post(f"/calls/{other.id}/changes/{change}/undo")
    assert strange.status_code == 404
    async with db.look() as session:
        assert (await crm_queries.deal(session, deal_id)).stage == "lost"
        assert not (await session.scalars(select(Audit))).all()


async def test_a_delivery_is_sent_again(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Resend puts a failed delivery before the courier again; another call's is not to be found."""
    async with db.work() as session:
        await webhooks.add_endpoint(
            session, options=EndpointOptions(keys=(new_key(),)), url="https://example.com/in",
            events=["call.ended"], now=now,
        )  # fmt: skip
    call_id, _ = await a_call_that_moved_a_deal(db, make, now)
    async with db.work() as session:
        await webhooks.fan_out(session, await publish(session), now=now)
        (delivery,) = await session.scalars(select(Delivery))
        delivery.state, delivery.attempts = "failed", 8
        other = await make.call(session, room="room-2", now=now)
    assert "/resend" in (await pages.get(f"/calls/{call_id}")).text
    strange = await pages.post(f"/calls/{other.id}/deliveries/{delivery.id}/resend")
    assert strange.status_code == 404
    answer = await pages.post(f"/calls/{call_id}/deliveries/{delivery.id}/resend")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/calls/{call_id}?done=resent#deliveries",
    )
    async with db.look() as session:
        found = await webhook_queries.delivery(session, delivery.id)
    assert found.delivery.state == "pending"
    assert found.delivery.next_at == now + 10 * MINUTE


async def test_the_events_of_a_call_can_be_read_raw(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Each event stands with its body as webhooks carry it, in order; an unknown call says so."""
    call_id, _ = await a_call_that_moved_a_deal(db, make, now)
    text = (await pages.get(f"/calls/{call_id}/events")).text
    told = ("call.started", "deal.updated", "call.ended")
    places = [text.index(f"<code>{name}</code>") for name in told]
    assert places == sorted(places)
    assert "&#34;won&#34;" in text
    missing = await pages.get("/calls/call_nothing/events")
    assert missing.status_code == 404


async def test_the_next_call_keeps_the_filters(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Newer and older calls are one link away, with the list's part of the address alone."""
    async with db.work() as session:
        first, second, third = [
            await make.call(session, room=f"room-{n}", now=now + n * MINUTE) for n in range(3)
        ]
    text = (
        await pages.get(f"/calls/{second.id}?direction=inbound&tests=show&t=3&done=undone")
    ).text
    kept = "?direction=inbound&amp;tests=show"
    assert f'href="/calls/{third.id}{kept}" data-key="k"' in text
    assert f'href="/calls/{first.id}{kept}" data-key="j"' in text
    assert f'href="/calls{kept}"' in text
    newest = (await pages.get(f"/calls/{third.id}")).text
    assert 'data-key="k"' not in newest


async def test_what_people_say_of_a_call_stands_on_its_page(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Forms of the page mark it as reviewed, tag and comment it; each leads back with the list's filters."""
    call_id, _ = await a_call_that_moved_a_deal(db, make, now)
    text = (await pages.get(f"/calls/{call_id}?tag=vip")).text
    assert "Not reviewed" in text
    back = f"/calls/{call_id}?tag=vip#marks"
    assert f'name="back" value="{back}"' in text
    for place, fields in (
        ("review", {"review": "done"}),
        ("tags", {"tag": "Follow up"}),
        ("comments", {"text": "<b>Good</b> call"}),
    ):
        answer = await pages.post(f"/calls/{call_id}/{place}", data={**fields, "back": back})
        assert (answer.status_code, answer.headers["location"]) == (303, back)
    text = (await pages.get(f"/calls/{call_id}")).text
    assert "Reviewed</span>" in text
    assert "Remove the tag follow up" in text
    assert "&lt;b&gt;Good&lt;/b&gt; call" in text


async def test_what_the_models_did_and_cost(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Each model with its counts and units, and what is known of the price."""
    call_id, _ = await a_call_that_moved_a_deal(db, make, now)
    used = Used("llm", "openai gpt-4.1-mini", requests=2, input_tokens=900, output_tokens=40)
    prices = {"openai gpt-4.1-mini": Price(input=0.4, output=1.6)}
    async with db.work() as session:
        row = await session.get(Call, call_id)
        assert row is not None
        row.usage = bill([used, Used("tts", "cartesia sonic-3", 1, characters=80)], prices)
    page = (await pages.get(f"/calls/{call_id}")).text
    assert "2 requests, 900 tokens in, 40 out" in page
    assert "1 request, 80 characters" in page
    assert "0.0004 USD, in part" in page
