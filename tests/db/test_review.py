"""What people say of a call, and what a call itself remembers for the filters of the list."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from trunkline.calls import queries, review, service, views
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.review import By, Review
from trunkline.errors import Invalid, NotFound
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)
MARIA = By("usr_1", "Maria Santos")
JON = By("usr_2", "Jon Peters")


async def test_a_review_keeps_its_first_name(db: Database, make: "Make", now: datetime) -> None:
    """Marked as reviewed by who and when; a repeat changes nothing, another mark takes its place."""
    async with db.work() as session:
        call = await make.call(session)
        assert await review.set_review(session, call.id, Review.NEEDED, by=MARIA, now=now)
        assert await review.set_review(session, call.id, Review.DONE, by=MARIA, now=now + S)
        assert not await review.set_review(session, call.id, Review.DONE, by=JON, now=now + 2 * S)
    async with db.look() as session:
        marks = await review.marks(session, call.id)
    assert (marks.review, marks.reviewed_by, marks.reviewed_at) == ("done", MARIA.name, now + S)
    async with db.work() as session:
        assert await review.set_review(session, call.id, None, by=JON, now=now)
        marks = await review.marks(session, call.id)
    assert (marks.review, marks.reviewed_by, marks.reviewed_at) == (None, None, None)


async def test_tags(db: Database, make: "Make", now: datetime) -> None:
    """Capitals and spaces make no other tag; each is there once, and all of them can be listed."""
    async with db.work() as session:
        one = await make.call(session)
        other = await make.call(session, room="room-2")
        assert await review.add_tag(session, one.id, " Billing  Dispute ", by=MARIA, now=now)
        assert not await review.add_tag(session, one.id, "billing dispute", by=JON, now=now)
        assert await review.add_tag(session, other.id, "vip", by=JON, now=now)
        assert await review.tags(session, one.id) == ["billing dispute"]
        assert await review.known_tags(session) == ["billing dispute", "vip"]
        assert await review.remove_tag(session, one.id, "BILLING dispute")
        assert not await review.remove_tag(session, one.id, "billing dispute")
        assert await review.known_tags(session) == ["vip"]


@pytest.mark.parametrize("tag", ["", "  ", "x" * 41, "a,b", "a/b", "a\x00b"])
async def test_a_tag_that_cannot_be(db: Database, make: "Make", now: datetime, tag: str) -> None:
    """It is refused with the rule."""
    async with db.work() as session:
        call = await make.call(session)
        with pytest.raises(Invalid, match="a tag must have 1 to 40 characters"):
            await review.add_tag(session, call.id, tag, by=MARIA, now=now)


async def test_no_more_tags_than_fit(db: Database, make: "Make", now: datetime) -> None:
    """The twenty-first is refused, the twenty stay."""
    async with db.work() as session:
        call = await make.call(session)
        for n in range(review.MOST_TAGS):
            await review.add_tag(session, call.id, f"tag {n}", by=MARIA, now=now)
        with pytest.raises(Invalid, match="can have 20 tags"):
            await review.add_tag(session, call.id, "one more", by=MARIA, now=now)
        assert len(await review.tags(session, call.id)) == review.MOST_TAGS


async def test_comments(db: Database, make: "Make", now: datetime) -> None:
    """They stand in order, card numbers blacked out; one's own can be taken back, others' not."""
    async with db.work() as session:
        call = await make.call(session)
        first = await review.comment(session, call.id, " Fine. ", by=MARIA, now=now)
        await review.comment(
            session, call.id, "Card 4111 1111 1111 1111", offset_ms=900, by=JON, now=now + S
        )
        with pytest.raises(Invalid, match="1 to 4000"):
            await review.comment(session, call.id, "\x00 ", by=MARIA, now=now)
        with pytest.raises(NotFound):
            await review.remove_comment(session, call.id, first.id, by=JON)
        rows = await review.comments(session, call.id)
    assert [(row.by, row.offset_ms) for row in rows] == [(MARIA.name, None), (JON.name, 900)]
    assert rows[0].text == "Fine."
    assert "4111 1111" not in rows[1].text
    async with db.work() as session:
        await review.remove_comment(session, call.id, first.id, by=MARIA)
        assert [row.by for row in await review.comments(session, call.id)] == [JON.name]


async def test_nothing_is_said_of_a_call_that_is_not(db: Database, now: datetime) -> None:
    """Each verb says so."""
    async with db.work() as session:
        for verb in (
            review.set_review(session, "call_x", Review.DONE, by=MARIA, now=now),
            review.add_tag(session, "call_x", "vip", by=MARIA, now=now),
            review.remove_tag(session, "call_x", "vip"),
            review.comment(session, "call_x", "Hm.", by=MARIA, now=now),
            review.marks(session, "call_x"),
            review.set_test(session, "call_x", True),
        ):
            with pytest.raises(NotFound):
                await verb


async def test_a_write_that_failed_is_remembered_until_it_succeeds(
    db: Database, make: "Make", now: datetime
) -> None:
    """A tool that writes to the CRM and fails marks the call; its later success takes the mark away.

    A failed look-up is no failed write.
    """

    async def run(name: str, *, writes: bool, ok: bool, n: int) -> bool:
        async with db.work() as session:
            started = await service.start_tool(
                session,
                lease,
                name=name,
                arguments={"n": n},
                writes=writes,
                turn_id=None,
                offset_ms=None,
                now=now,
            )
            if ok:
                await service.finish_tool(session, lease, started.id, result="done", now=now)
            else:
                await service.fail_tool(session, lease, started.id, error="refused", now=now)
        async with db.look() as session:
            return (await queries.call(session, lease.call_id)).crm_failed

    async with db.work() as session:
        call = await make.call(session)
        lease = await service.take_lease(session, call.id, now=now)
        await service.answer(session, lease, now=now)
    assert not await run("look_up_contact", writes=False, ok=False, n=1)
    assert await run("move_deal", writes=True, ok=False, n=2)
    assert await run("log_activity", writes=True, ok=False, n=3)
    assert await run("move_deal", writes=True, ok=True, n=4)
    assert not await run("log_activity", writes=True, ok=True, n=5)
    assert await run("move_deal", writes=True, ok=False, n=6)


async def test_what_a_call_remembers_of_itself(db: Database, make: "Make", now: datetime) -> None:
    """How long it took, whether it was handed over, and whether it is a test."""
    async with db.work() as session:
        call = await make.call(session, channel="sip")
        lease = await service.take_lease(session, call.id, now=now)
        await service.answer(session, lease, now=now)
        await service.end(session, call.id, EndReason.TRANSFERRED, now=now + 90 * S)
        tried = await make.call(session, room="room-2", channel="loopback")
        await service.end(session, tried.id, EndReason.NO_ANSWER, now=now + S)
    assert (call.duration_ms, call.transferred, call.test) == (90_000, True, False)
    assert (tried.duration_ms, tried.transferred, tried.test) == (None, False, True)
    async with db.work() as session:
        assert await review.set_test(session, call.id, True)
        assert not await review.set_test(session, call.id, True)


async def test_a_view_that_is_saved_twice_at_once_is_one(db: Database, now: datetime) -> None:
    """Of two browsers that save the same name the later one's filters stay, and the list has one."""

    async def save(query: str) -> str:
        async with db.work() as session:
            view = await views.save(
                session, name="To review", query=query, shared=False, by=MARIA, now=now
            )
            return view.id

    ids = await asyncio.gather(*(save(f"tag={n}") for n in range(4)))
    async with db.look() as session:
        (only,) = await views.seen_by(session, MARIA.id)
    assert set(ids) == {only.id}
    async with db.work() as session:
        again = await views.save(
            session, name="To review", query="tag=z", shared=True, by=MARIA, now=now + S
        )
    assert (again.id, again.query, again.shared, again.created_at) == (only.id, "tag=z", True, now)


async def test_a_shared_view_outlives_whoever_kept_it(db: Database, now: datetime) -> None:
    """Who may share views takes back anybody's, by its id; what somebody keeps for themselves nobody else
    does, and without that right one's own alone."""
    async with db.work() as session:
        shared = await views.save(session, name="A", query="", shared=True, by=MARIA, now=now)
        own = await views.save(session, name="B", query="", shared=False, by=MARIA, now=now)
        for view_id, for_all in ((shared.id, False), ("A", True), (own.id, True)):
            with pytest.raises(NotFound):
                await views.remove(session, view_id, by=JON, for_all=for_all)
        await views.remove(session, shared.id, by=JON, for_all=True)
        assert [view.id for view in await views.seen_by(session, MARIA.id)] == [own.id]
