"""Today at a glance, over all domains: what came in, what came of it, and what needs somebody."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from statistics import median
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import State
from trunkline.calls.models import Call, Turn
from trunkline.calls.review import Review
from trunkline.crm.models import Activity, Change, Deal
from trunkline.desk import call_list
from trunkline.kit.ids import lowest_id
from trunkline.profiles import queries as profiles
from trunkline.webhooks.models import Delivery

LIVE = 20
"""So many of the calls under way are shown."""
_REPLIES = 500
"""The newest replies of which the median is taken."""


@dataclass(frozen=True)
class Today:
    """The day so far."""

    since: datetime
    """Its midnight."""
    zone: str
    """IANA name of where it is counted: where the first profile is."""
    tiles: call_list.Tiles
    tests: bool
    """There were tests and demo calls only, so they are what is counted."""
    live: Sequence[call_list.CallRow]
    live_count: int
    won: Sequence[tuple[int, str]]
    """What deals that were won today are worth: minor units and currency."""
    reply_ms: int | None
    """Median from the end of what a caller said to the first sound of the answer, as the agent has it."""
    needs_review: int
    """Calls of any day."""
    deliveries_failed: int
    tasks_due: int
    """Open tasks that are due by the end of now."""
    answers: bool
    """Whether any number leads to a profile."""


async def today(session: AsyncSession, *, now: datetime) -> Today:
    """The day so far, in the zone of the first profile; UTC while there is none."""
    bodies = await profiles.published_bodies(session)
    zone = bodies[0].timezone if bodies else "UTC"
    local = now.astimezone(ZoneInfo(zone))
    since = datetime.combine(local.date(), time(), ZoneInfo(zone)).astimezone(now.tzinfo)
    going_on = Call.state.in_(
        [state for state in State if state not in (State.ENDED, State.QUEUED)]
    )
    live = await session.scalars(
        select(Call).where(going_on).order_by(Call.started_at.desc()).limit(LIVE)
    )
    rows = await call_list.rows(session, live.all())
    count = await session.scalar(select(func.count()).select_from(Call).where(going_on))
    tiles = await call_list.tiles(session, Filters(since=since, hide_tests=True))
    tests = False
    if not tiles.calls:
        all_tiles = await call_list.tiles(session, Filters(since=since))
        tests, tiles = bool(all_tiles.calls), all_tiles
    return Today(
        since=since,
        zone=zone,
        tiles=tiles,
        tests=tests,
        live=rows,
        live_count=count or 0,
        won=await _won(session, since),
        reply_ms=await _reply_ms(session, since),
        needs_review=await _count(session, Call, Call.review == Review.NEEDED.value),
        deliveries_failed=await _count(
            session, Delivery, Delivery.id >= lowest_id("dlv", at=since), Delivery.state == "failed"
        ),
        tasks_due=await _count(
            session, Activity, Activity.due_at <= now, Activity.done_at.is_(None)
        ),
        answers=bool(await profiles.numbers(session)),
    )


async def _count(session: AsyncSession, table: type, *conditions: object) -> int:
    query = select(func.count()).select_from(table)
    return await session.scalar(query.where(*conditions)) or 0  # type: ignore[arg-type]


async def _won(session: AsyncSession, since: datetime) -> list[tuple[int, str]]:
    moved = select(Change.entity_id).where(
        Change.id >= lowest_id("chg", at=since),
        Change.entity == "deal",
        Change.field == "stage",
        Change.undone_at.is_(None),
    )
    sums: dict[str, int] = defaultdict(int)
    for minor, currency in await session.execute(
        select(Deal.amount_minor, Deal.currency).where(Deal.outcome == "won", Deal.id.in_(moved))
    ):
        sums[currency] += minor
    return [(minor, currency) for currency, minor in sorted(sums.items())]


async def _reply_ms(session: AsyncSession, since: datetime) -> int | None:
    found = await session.scalars(
        select(Turn.latency)
        .where(Turn.id >= lowest_id("turn", at=since), Turn.role == "agent")
        .order_by(Turn.id.desc())
        .limit(_REPLIES)
    )
    known = [latency["reply"] for latency in found if latency and latency.get("reply") is not None]
    return round(median(known)) if known else None
