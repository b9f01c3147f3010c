"""The pages of contacts and deals, over forms alone."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access.models import Audit
from trunkline.crm import queries
from trunkline.crm import service as crm
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.models import EventRow
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def pages(
    db: Database, blobs: Blobs, now: datetime, browse: "Browse"
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(db, blobs, WebOptions(login=False), clock=lambda: now + MINUTE)
    async with browse(app) as client:
        yield client


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("dana", True),
        ("WHITFIELD bakery", True),  # a word of the name and one of the company
        ("555-0134", True),  # part of a number, however it is written
        ("(202) 555", True),
        ("50% off", False),
        ("_ana", False),  # nothing is a wildcard
        ("dana'; DROP TABLE contacts; --", False),
    ],
)
async def test_somebody_is_found(
    pages: httpx.AsyncClient, db: Database, make: "Make", query: str, found: bool
) -> None:
    """By any part of name, company, address or number; whatever is typed is only looked for."""
    async with db.work() as session:
        contact = await make.contact(session)
        await make.contact(session, name="Peter Novak", phones=["+4930123456"], company=None)
    page = await pages.get("/contacts", params={"q": query})
    assert page.status_code == 200
    assert (f'href="/contacts/{contact.id}"' in page.text) is found
    if not found:
        assert "Nobody fits." in page.text


async def test_the_filters(pages: httpx.AsyncClient, db: Database, make: "Make") -> None:
    """People with an open deal, and people who are not to be called."""
    async with db.work() as session:
        deal = await make.deal(session)
        quiet = await make.contact(session, name="Quiet One", phones=[], company=None)
        await crm.update_contact(
            session, quiet.id, {"do_not_call": True}, cause=crm.Cause("person"), now=deal.created_at
        )
    with_deal = (await pages.get("/contacts?open_deal=1")).text
    assert "Dana Whitfield" in with_deal
    assert "Quiet One" not in with_deal
    shy = (await pages.get("/contacts?do_not_call=1")).text
    assert "Quiet One" in shy
    assert "Dana Whitfield" not in shy


async def test_a_person_is_made_and_changed(pages: httpx.AsyncClient, db: Database) -> None:
    """What is saved stands in the ledger and the audit; what will not do is said, and stays typed."""
    assert (await pages.post("/contacts/new", data={})).status_code == 422
    wrong = await pages.post("/contacts/new", data={"name": "Ada", "number": "12"})
    assert wrong.status_code == 422
    assert 'value="Ada"' in wrong.text
    made = await pages.post("/contacts/new", data={"name": "Ada", "number": "+12025550177"})
    path = made.headers["location"].partition("?")[0]
    again = await pages.post("/contacts/new", data={"name": "Other", "number": "+12025550177"})
    assert again.status_code == 409
    form = {"name": "Ada King", "company": "Engines", "tags": "vip, north"}
    form |= {"do_not_call": "true", "do_not_call_reason": "Asked in March"}
    assert (await pages.post(path, data=form)).headers["location"] == f"{path}?done=saved"
    page = (await pages.get(path)).text
    assert "Ada King" in page
    assert re.search(r"Not to be called: Asked in March.*Set by This machine, <time", page)
    assert "<del>Ada</del>" in page
    async with db.look() as session:
        contact = await queries.contact(session, path.rpartition("/")[2])
        actions = list(await session.scalars(select(Audit.action).order_by(Audit.id)))
    assert (contact.tags, contact.do_not_call) == (["vip", "north"], True)
    assert actions == ["contact.made", "contact.changed", "contact.do_not_call"]
    assert "Not to be called" not in (await pages.get("/contacts")).text
    # The box is cleared, the reason stays in its field.
    del form["do_not_call"]
    assert (await pages.post(path, data=form)).status_code == 303
    assert "Not to be called" not in (await pages.get(path)).text
    async with db.look() as session:
        last = await session.scalar(select(Audit.action).order_by(Audit.id.desc()))
    assert last == "contact.may_call"


async def test_a_persons_timeline(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Calls, activities and changes in one list, the newest first, older ones on the next page."""
    async with db.work() as session:
        contact = await make.contact(session, now=now)
        call = await make.call(session, contact_id=contact.id, now=now)
        for n in range(60):
            await crm.log_activity(
                session,
                kind="note",
                summary=f"Note number {n:02}.",
                contact_id=contact.id,
                cause=crm.Cause("person"),
                now=now + n * MINUTE,
            )
    first = (await pages.get(f"/contacts/{contact.id}")).text
    assert first.index("Note number 59.") < first.index("Note number 58.")
    assert "Note number 09." not in first
    older = first.partition("?before=")[2].partition('"')[0]
    second = (await pages.get(f"/contacts/{contact.id}?before={older}")).text
    assert "Note number 09." in second
    assert f'href="/calls/{call.id}"' in second
    assert (await pages.get("/contacts/con_nothing")).status_code == 404


async def test_a_deal_is_moved_and_taken_back(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """On the board by a form; its page shows from where to where, and undo raises the event."""
    async with db.work() as session:
        deal = await make.deal(session, now=now)
    board = (await pages.get("/deals")).text
    assert "Office Fiber" in board
    assert "2,400.00" in board
    moved = await pages.post(f"/deals/{deal.id}/move", data={"stage": "won", "back": "board"})
    assert moved.headers["location"] == f"/deals?pipeline=Sales&done=moved#{deal.id}"
    page = (await pages.get(f"/deals/{deal.id}")).text
    assert "<del>proposal</del>" in page
    assert "<ins>won</ins>" in page
    assert "by a person" in page
    async with db.look() as session:
        change = (await queries.changes_of(session, "deal", deal.id))[-1]
    await pages.post(f"/deals/{deal.id}/changes/{change.id}/undo")
    async with db.look() as session:
        assert (await queries.deal(session, deal.id)).stage == "proposal"
        told = await session.scalar(select(EventRow).where(EventRow.type == "change.undone"))
    assert told is not None
    twice = await pages.post(f"/deals/{deal.id}/changes/{change.id}/undo")
    assert twice.status_code == 409
    nowhere = await pages.post(f"/deals/{deal.id}/move", data={"stage": "moon"})
    assert nowhere.status_code == 422
    other = await pages.post(f"/deals/{deal.id}/changes/chg_nothing/undo")
    assert other.status_code == 404


async def test_nothing_is_there_yet(pages: httpx.AsyncClient) -> None:
    """Empty pages say what to do next."""
    assert "There are no contacts yet" in (await pages.get("/contacts")).text
    assert "There is no pipeline yet" in (await pages.get("/deals")).text


async def test_a_number_is_shown_as_people_write_it(
    pages: httpx.AsyncClient, db: Database, make: "Make"
) -> None:
    """Readable on the page, in E.164 beside it for whoever copies it."""
    async with db.work() as session:
        contact = await make.contact(session)
    page = (await pages.get(f"/contacts/{contact.id}")).text
    assert PhoneNumber("+12025550134").international in page
    assert "+12025550134" in page
