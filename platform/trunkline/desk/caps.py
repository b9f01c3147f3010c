"""How many calls there are beside the one that comes in; two at once can't both be the last."""

from datetime import datetime, timedelta

from sqlalchemy import ScalarSelect, and_, func, literal, or_, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.lifecycle import State
from trunkline.calls.models import Call
from trunkline.desk.door import LET_IN, House, Load
from trunkline.profiles.behaviour import Limits
from trunkline.profiles.models import ProfileVersion

HOUR = timedelta(hours=1)

_LOCK = 0x7472_756E_6B6C_0001
"""Key of PostgreSQL's advisory lock for this purpose, in a space that nobody else uses."""
_PATIENCE_MS = 300
"""How long a call waits for its turn to be counted. After that a cap may be passed by one, rather than
a caller kept waiting."""


def any_cap(limits: Limits, house: House) -> bool:
    """Whether there is anything to count for."""
    return not (house.max_calls is limits.max_calls is limits.max_calls_per_caller_per_hour is None)


async def count(
    session: AsyncSession,
    *,
    call_id: str | None,
    profile_id: str,
    caller: str | None,
    limits: Limits,
    house: House,
    now: datetime,
) -> Load:
    """How many calls there are beside *call_id*, as far as a cap asks; the rest is 0. One statement.

    *caller* is E.164. Only calls count that were let in, or that we place.
    """
    let_in = Call.door.in_([kind.value for kind in LET_IN])
    others = Call.id != (call_id or "")
    live = and_(Call.ended_at.is_(None), others)
    placed = and_(Call.direction == "outbound", Call.state != State.QUEUED.value)
    versions = select(ProfileVersion.id).where(ProfileVersion.profile_id == profile_id)
    nothing = select(literal(0)).scalar_subquery()

    def counted(*where: object) -> ScalarSelect[int]:
        return select(func.count()).select_from(Call).where(*where).scalar_subquery()  # type: ignore[arg-type]

    statement = select(
        counted(live, or_(let_in, placed)) if house.max_calls else nothing,
        counted(live, let_in, Call.profile_version_id.in_(versions))
        if limits.max_calls
        else nothing,
        counted(
            Call.from_number == caller,
            Call.started_at > now - HOUR,
            Call.direction == "inbound",
            let_in,
            others,
        )
        if limits.max_calls_per_caller_per_hour and caller
        else nothing,
    )
    found = (await session.execute(statement)).one()
    return Load(all=found[0], of_profile=found[1], of_caller=found[2])


async def in_turn(session: AsyncSession) -> None:
    """Let one call at a time be counted, until this transaction ends; on SQLite that is so anyway."""
    if session.get_bind().dialect.name != "postgresql":
        return
    try:
        async with session.begin_nested():
            await session.execute(text(f"SET LOCAL lock_timeout = {_PATIENCE_MS}"))
            await session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            await session.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
    except OperationalError:  # lock_not_available (55P03); the savepoint has put everything back
        return
