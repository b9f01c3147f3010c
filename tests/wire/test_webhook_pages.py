"""The pages of webhooks, over forms alone: make an endpoint, see what failed, put it right."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access.models import Audit
from trunkline.events import CATALOGUE, TranscriptReady
from trunkline.kit.blobs import Blobs
from trunkline.kit.crypt import Sealer, new_key
from trunkline.kit.db import Database
from trunkline.outbox.publish import publish
from trunkline.outbox.record import record
from trunkline.web.app import create_app
from trunkline.web.dashboard import snippets, webhook_pages
from trunkline.web.options import WebOptions
from trunkline.webhooks import claims, outcomes, queries
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.claims import Claimed
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.options import EndpointOptions
from trunkline.webhooks.outcomes import Outcome

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse

MINUTE = timedelta(minutes=1)
KEYS = (new_key(),)
FORM = {"url": "https://hooks.example.com/in", "events": ["call.*", "deal.updated"]}


@pytest.fixture
async def pages(
    db: Database, blobs: Blobs, now: datetime, browse: "Browse"
) -> AsyncIterator[httpx.AsyncClient]:
    options = WebOptions(login=False, endpoints=EndpointOptions(keys=KEYS))
    app = create_app(db, blobs, options, clock=lambda: now + MINUTE)
    async with browse(app) as client:
        yield client


async def made(pages: httpx.AsyncClient, db: Database) -> str:
    """The id of an endpoint that was made on the page."""
    assert (await pages.post("/webhooks/new", data=FORM)).status_code == 200
    async with db.look() as session:
        (endpoint,) = await queries.endpoints(session)
    return endpoint.id


async def failed_delivery(db: Database, make: "Make", endpoint_id: str, now: datetime) -> str:
    """The id of a delivery that was given up."""
    async with db.work() as session:
        await make.call(session, now=now)
    async with db.work() as session:
        await webhooks.fan_out(session, await publish(session), now=now)
    async with db.work() as session:
        delivery = await session.scalar(
            select(Delivery).where(Delivery.endpoint_id == endpoint_id).order_by(Delivery.id)
        )
        assert delivery is not None
        delivery.state, delivery.attempts = queries.FAILED, 8
        return delivery.id


async def test_nobody_is_told_yet(pages: httpx.AsyncClient) -> None:
    """Without an endpoint the page says so and leads to the first one."""
    page = (await pages.get("/webhooks")).text
    assert "Nobody is told yet" in page
    assert 'href="/webhooks/new"' in page
    assert "Nothing was sent yet" in (await pages.get("/deliveries")).text


async def test_the_secret_is_shown_once(pages: httpx.AsyncClient, db: Database) -> None:
    """The answer to the form shows it and is kept nowhere; no other page does."""
    answer = await pages.post("/webhooks/new", data=FORM | {"send_test": "true"})
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", answer.text)
    assert secret is not None
    assert answer.headers["cache-control"] == "no-store"
    async with db.look() as session:
        (endpoint,) = await queries.endpoints(session)
        (line,) = await session.scalars(select(Audit).where(Audit.action == "endpoint.created"))
    assert (endpoint.events, line.subject) == (["call.*", "deal.updated"], endpoint.id)
    for path in ("/webhooks", f"/webhooks/{endpoint.id}"):
        assert secret[0] not in (await pages.get(path)).text
    rotated = await pages.post(f"/webhooks/{endpoint.id}/rotate", data={"overlap_h": "2"})
    again = re.search(r"whsec_[A-Za-z0-9+/=]+", rotated.text)
    assert again is not None
    assert again[0] != secret[0]
    assert "Old secret signs" in rotated.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "https://10.0.0.7/in"}, "10.0.0.7"),
        ({"url": "ftp://example.com"}, "http"),
        ({"events": []}, "Choose at least one event"),
        ({"events": ["call.endet"]}, "call.ended"),
        ({"rate": "many"}, "whole number of deliveries a second"),
        ({"headers": "no colon here"}, "name: value"),
    ],
)
async def test_what_will_not_do_is_said_and_kept(
    pages: httpx.AsyncClient, db: Database, change: dict[str, object], says: str
) -> None:
    """The form comes back with one sentence and everything that was typed; nothing is made."""
    answer = await pages.post("/webhooks/new", data={**FORM, "description": "Warehouse", **change})
    assert answer.status_code == 422
    assert says in answer.text
    assert 'value="Warehouse"' in answer.text
    async with db.look() as session:
        assert list(await queries.endpoints(session)) == []


async def test_settings_are_changed(pages: httpx.AsyncClient, db: Database) -> None:
    """What is saved is what was typed; headers left empty stay, and go when that is asked for."""
    endpoint_id = await made(pages, db)
    form = {
        **FORM,
        "description": "Warehouse",
        "ordered": "true",
        "rate": "20",
        "ignored": "hubspot, crm",
        "headers": "authorization: Bearer s3cret",
    }
    answer = await pages.post(f"/webhooks/{endpoint_id}", data=form)
    assert answer.headers["location"] == f"/webhooks/{endpoint_id}?done=saved"
    page = (await pages.get(answer.headers["location"])).text
    assert "Saved." in page
    assert "s3cret" not in page
    await pages.post(f"/webhooks/{endpoint_id}", data={**form, "headers": ""})
    async with db.look() as session:
        row = await queries.endpoint(session, endpoint_id)
    assert (row.description, row.ordered, row.rate_per_s) == ("Warehouse", True, 20)
    assert (row.ignored_sources, list(row.headers)) == (["hubspot", "crm"], ["authorization"])
    await pages.post(f"/webhooks/{endpoint_id}", data={**form, "headers": "", "no_headers": "true"})
    async with db.look() as session:
        assert (await queries.endpoint(session, endpoint_id)).headers == {}


async def test_of_two_who_change_it_at_once_the_second_sees_what_changed(
    pages: httpx.AsyncClient, db: Database
) -> None:
    """Nothing is stored over somebody else's change unseen; what was typed stays, to be saved again."""
    path = f"/webhooks/{await made(pages, db)}"

    def version(page: str) -> str:
        found = re.search(r'name="version" value="([0-9a-f]+)"', page)
        assert found
        return found[1]

    seen = version((await pages.get(path)).text)
    theirs = {**FORM, "url": "https://hooks.example.com/theirs", "version": seen}
    assert (await pages.post(path, data=theirs)).status_code == 303
    mine = {**FORM, "description": "Mine", "version": seen}
    # Also after a slip of the pen it is the old version that counts.
    slip = await pages.post(path, data={**mine, "rate": "many"})
    assert (slip.status_code, version(slip.text)) == (422, seen)
    told = await pages.post(path, data=mine)
    assert told.status_code == 409
    assert (
        "Somebody changed it meanwhile: the address (now https://hooks.example.com/theirs)"
        in told.text
    )
    assert 'value="Mine"' in told.text
    async with db.look() as session:
        [endpoint] = await queries.endpoints(session)
    assert (endpoint.url, endpoint.description) == ("https://hooks.example.com/theirs", None)
    again = await pages.post(path, data={**mine, "version": version(told.text)})
    assert again.status_code == 303
    async with db.look() as session:
        [endpoint] = await queries.endpoints(session)
    assert (endpoint.url, endpoint.description) == (FORM["url"], "Mine")


async def test_a_failure_is_found_and_repaired(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """From the list to what was given up, to the one delivery, and sent again; the audit tells who did."""
    endpoint_id = await made(pages, db)
    delivery_id = await failed_delivery(db, make, endpoint_id, now)
    found = (await pages.get(f"/deliveries?endpoint={endpoint_id}&state=failed")).text
    assert f'href="/deliveries/{delivery_id}"' in found
    assert "Nothing fits these filters" in (await pages.get("/deliveries?state=delivered")).text
    assert "It was not tried yet" in (await pages.get(f"/deliveries/{delivery_id}")).text
    answer = await pages.post(f"/deliveries/{delivery_id}/resend")
    assert answer.headers["location"] == f"/deliveries/{delivery_id}?done=resent"
    async with db.look() as session:
        row = await session.get(Delivery, delivery_id)
        actions = set(await session.scalars(select(Audit.action)))
    assert row is not None
    assert row.state == queries.PENDING
    assert {"endpoint.created", "delivery.resent"} <= actions


async def test_what_was_given_up_is_recovered_and_replayed(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Both say how many are on their way; a moment that is none is said, and nothing happens."""
    endpoint_id = await made(pages, db)
    await failed_delivery(db, make, endpoint_id, now)
    since = {"since": f"{now - MINUTE:%Y-%m-%dT%H:%M}"}
    wrong = await pages.post(f"/webhooks/{endpoint_id}/recover", data={"since": "yesterday"})
    assert wrong.status_code == 422
    assert "is no date and time" in wrong.text
    answer = await pages.post(f"/webhooks/{endpoint_id}/recover", data=since)
    assert "1 delivery is being sent again." in (await pages.get(answer.headers["location"])).text
    answer = await pages.post(f"/webhooks/{endpoint_id}/replay", data=since)
    assert re.search(
        r"\d+ deliver(y is|ies are) on their way",
        (await pages.get(answer.headers["location"])).text,
    )


async def test_off_and_on(pages: httpx.AsyncClient, db: Database) -> None:
    """Switched off it takes no test and says why; on again it does."""
    endpoint_id = await made(pages, db)
    await pages.post(f"/webhooks/{endpoint_id}/disable")
    refused = await pages.post(f"/webhooks/{endpoint_id}/test")
    assert refused.status_code == 409
    assert "switch it on first" in refused.text
    await pages.post(f"/webhooks/{endpoint_id}/enable")
    assert (await pages.post(f"/webhooks/{endpoint_id}/test")).status_code == 303
    sample = await pages.post(f"/webhooks/{endpoint_id}/sample", data={"type": "call.ended"})
    assert sample.headers["location"].endswith("done=sample")


async def test_deleting_asks_for_the_host(pages: httpx.AsyncClient, db: Database) -> None:
    """A host that does not fit deletes nothing; the right one does."""
    endpoint_id = await made(pages, db)
    wrong = await pages.post(f"/webhooks/{endpoint_id}/delete", data={"confirm": "example.com"})
    assert wrong.status_code == 422
    assert "Nothing was deleted" in wrong.text
    right = await pages.post(
        f"/webhooks/{endpoint_id}/delete", data={"confirm": "hooks.example.com"}
    )
    assert right.headers["location"] == "/webhooks?done=deleted"
    async with db.look() as session:
        row = await session.get(Endpoint, endpoint_id)
    assert row is not None
    assert row.deleted_at is not None


async def test_every_event_is_explained(pages: httpx.AsyncClient) -> None:
    """The catalogue names every event; each has its sentence, sample and schema."""
    page = (await pages.get("/webhooks/events")).text
    for type_ in CATALOGUE:
        assert f'href="/webhooks/events/{type_}"' in page
    one = (await pages.get("/webhooks/events/deal.updated")).text
    assert "&#34;type&#34;: &#34;deal.updated&#34;" in one
    assert "JSON Schema" in one
    assert (await pages.get("/webhooks/events/deal.upgraded")).status_code == 404


async def claimed(db: Database, now: datetime) -> list[Claimed]:
    """What a courier takes in hand now, of all that was recorded."""
    async with db.work() as session:
        await webhooks.fan_out(session, await publish(session), now=now)
    async with db.work() as session:
        return await claims.claim(
            session, sealer=Sealer(KEYS), limit=100, lease=timedelta(seconds=3), now=now
        )


async def answered(
    db: Database, claims: list[Claimed], now: datetime, status: int | None, body: bytes = b""
) -> None:
    """The receiver answers so, or not at all."""
    headers = {"content-type": "text/plain"} if status else None
    came = [
        Outcome(
            claim, now, 41, {"webhook-id": claim.event_id}, status=status, response_body=body,
            error=None if status else "the connection was refused", response_headers=headers,
        )
        for claim in claims
    ]  # fmt: skip
    async with db.work() as session:
        await outcomes.settle(session, came, jitter=lambda: 1.0, now=now)


async def test_every_attempt_is_shown(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Time, status, milliseconds, headers, body and next attempt of each, and what was sent; the list
    counts attempts that failed, long before anything is given up."""
    endpoint_id = await made(pages, db)
    async with db.work() as session:
        await make.call(session, now=now)
    claims = await claimed(db, now)
    await answered(db, claims, now, 503, b"<b>down for a while</b>")
    soon = now + timedelta(seconds=5)
    await answered(db, await claimed(db, soon), soon, None)
    text = (await pages.get(f"/deliveries/{claims[0].delivery_id}")).text
    for words in (
        "503", "41 ms", "&lt;b&gt;down for a while&lt;/b&gt;", "content-type: text/plain",
        f"webhook-id: {claims[0].event_id}", "the connection was refused", "Attempt 2",
        "15 Jan 2026, 09:30:05 UTC", "15 Jan 2026, 09:31:05 UTC", "&#34;direction&#34;",
    ):  # fmt: skip
        assert words in text, words
    assert "100.0 %" in (await pages.get("/webhooks")).text
    assert "2 of 2 attempts failed" in (await pages.get(f"/webhooks/{endpoint_id}")).text


async def test_what_cannot_be_sent_again_is_not_offered(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """A delivery of an endpoint that is off or deleted says so and has no button."""
    endpoint_id = await made(pages, db)
    at = f"/deliveries/{await failed_delivery(db, make, endpoint_id, now)}"
    assert f'action="{at}/resend"' in (await pages.get(at)).text
    await pages.post(f"/webhooks/{endpoint_id}/disable")
    off = (await pages.get(at)).text
    assert "Off: switched off by hand" in off
    assert f'action="{at}/resend"' not in off
    await pages.post(f"/webhooks/{endpoint_id}/delete", data={"confirm": "hooks.example.com"})
    gone = (await pages.get(at)).text
    assert "hooks.example.com, deleted" in gone
    assert f'href="/webhooks/{endpoint_id}"' not in gone


async def test_a_replay_of_very_much_goes_on_where_it_stopped(
    pages: httpx.AsyncClient, db: Database, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each press looks through a part and says how far it came; in the end every event was sent once."""
    monkeypatch.setattr(webhook_pages, "_PARTS_AT_ONCE", 1)
    async with db.work() as session:
        for n in range(1_001):
            await record(session, TranscriptReady(f"call_{n:04}", turns=1), now=now)
    while True:
        async with db.work() as session:
            if not await publish(session):
                break
    await pages.post("/webhooks/new", data=FORM | {"events": ["*"]})
    async with db.look() as session:
        (endpoint,) = await queries.endpoints(session)
    at = f"/webhooks/{endpoint.id}/replay"
    form = {"since": f"{now - MINUTE:%Y-%m-%dT%H:%M}", "type": "transcript.ready"}
    first = await pages.post(at, data=form)
    assert "1000 are on their way, and there is more" in first.text
    going_on = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', first.text))
    last = await pages.post(at, data=going_on)
    assert last.headers["location"].endswith("done=replayed-1001")
    one = await pages.post(at, data=form | {"subject": "call_0007"})
    assert one.headers["location"].endswith("done=replayed-0")  # it is on its way already
    for wrong in ("9999-99-99T00:00", "0001-01-01T00:00+14:00", ""):
        assert (await pages.post(at, data={"since": wrong})).status_code == 422


async def test_samples_and_snippets(pages: httpx.AsyncClient) -> None:
    """Each event is chosen with its sample beside it, and the code that verifies is that of the guide."""
    form = (await pages.get("/webhooks/new")).text
    for type_ in CATALOGUE:
        assert f'aria-label="Sample of {type_}"' in form
    assert "&#34;duration_ms&#34;: 64210" in form

    def squeezed(code: str) -> str:
        return re.sub(r"\s+", "", code.replace("\\\n", ""))

    guide = Path(__file__).parents[2] / "platform/docs/webhooks.md"
    for _, code in snippets.VERIFY:
        assert squeezed(code) in squeezed(guide.read_text())


async def test_a_header_that_is_none_is_not_repeated(pages: httpx.AsyncClient) -> None:
    """What stands in a line without a colon may be a password, so the reason leaves it out."""
    refused = await pages.post("/webhooks/new", data=FORM | {"headers": "my password"})
    assert refused.status_code == 422
    alert = re.search(r'role="alert">([^<]*)', refused.text)
    assert alert
    assert "name: value" in alert[1]
    assert "password" not in alert[1]
