"""Ways to look at the list of calls that people keep under a name. Verbs and their reads."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.models import View
from trunkline.calls.review import By
from trunkline.errors import Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id

MOST = 50
"""Views of one person."""
LONGEST_NAME = 60
LONGEST_QUERY = 2000


async def save(
    session: AsyncSession, *, name: str, query: str, shared: bool, by: By, now: datetime
) -> View:
    """Keep *query*, what stands behind the ``?`` of the list's address. One of the same name is replaced.

    Raises Invalid for a name or query that is too long, no name, and too many views.
    """
    called = " ".join(name.replace("\x00", "").split())
    if not 1 <= len(called) <= LONGEST_NAME:
        raise Invalid(f"a view needs a name of 1 to {LONGEST_NAME} characters")
    wanted = query.lstrip("?")
    if len(wanted) > LONGEST_QUERY or any(ord(c) < 32 for c in wanted):
        raise Invalid(f"the filters of a view may have {LONGEST_QUERY} characters; use fewer")
    others = select(func.count()).where(View.owner_id == by.id, View.name != called)
    if (await session.scalar(others) or 0) >= MOST:
        raise Invalid(f"you have {MOST} views already; remove one first")
    # The unique index decides, also between two that save at once.
    upsert = insert_for(session, View).values(
        id=new_id("view", now=now), owner_id=by.id, owner=by.name[:100], name=called,
        query=wanted, shared=shared, created_at=now,
    )  # fmt: skip
    upsert = upsert.on_conflict_do_update(
        index_elements=[View.owner_id, View.name], set_={"query": wanted, "shared": shared}
    )
    view: View | None = await session.scalar(
        upsert.returning(View), execution_options={"populate_existing": True}
    )
    assert view is not None
    return view


async def remove(session: AsyncSession, view_id: str, *, by: By, for_all: bool = False) -> View:
    """Take back a view, by its id or its name; *for_all* also one that everybody sees, by its id: whoever
    kept it may be gone.

    Raises NotFound, also for what somebody else keeps for themselves.
    """
    mine = select(View).where(View.owner_id == by.id)
    view = await session.scalar(mine.where(View.id == view_id))
    view = view or await session.scalar(mine.where(View.name == view_id))
    if view is None and for_all:
        view = await session.scalar(select(View).where(View.id == view_id, View.shared))
    if view is None:
        raise NotFound(f"you have kept no view {view_id[:LONGEST_NAME]!r}")
    await session.delete(view)
    await session.flush()
    return view


async def seen_by(session: AsyncSession, person_id: str) -> Sequence[View]:
    """Somebody's own views and those that everybody sees, in alphabetical order."""
    rows = select(View).where(or_(View.owner_id == person_id, View.shared))
    return (await session.scalars(rows.order_by(func.lower(View.name), View.id).limit(200))).all()


async def page(
    session: AsyncSession, person_id: str, *, after: str | None, limit: int
) -> Sequence[View]:
    """What :func:`seen_by` has, in the order in which they were made, those after the id *after*."""
    rows = select(View).where(or_(View.owner_id == person_id, View.shared))
    if after is not None:
        rows = rows.where(View.id > after)
    return (await session.scalars(rows.order_by(View.id).limit(limit))).all()
