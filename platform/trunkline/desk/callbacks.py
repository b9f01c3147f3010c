"""Promises to a caller: a call back, a message passed on."""

from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.crm import service as crm
from trunkline.crm.models import Activity
from trunkline.errors import Invalid
from trunkline.events import CallbackRequested
from trunkline.outbox.record import record


def due_at(day: str, at: str | None, *, default: str, timezone: str, now: datetime) -> datetime:
    """When a call back is due: *day* as YYYY-MM-DD, *at* as HH:MM in *timezone*, or *default*.

    Raises Invalid when it is no date, or has passed.
    """
    zone = ZoneInfo(timezone)
    try:
        moment = datetime.combine(date.fromisoformat(day), time.fromisoformat(at or default), zone)
    except ValueError:
        raise Invalid("the day must be YYYY-MM-DD and the time HH:MM, in 24 hours") from None
    if moment <= now:
        raise Invalid(f"{day} {at or default} has passed; choose a later time")
    return moment


async def request_callback(
    session: AsyncSession,
    *,
    contact_id: str | None,
    number: str | None,
    due: datetime,
    reason: str,
    cause: crm.Cause,
    now: datetime,
) -> Activity:
    """Make the task to call back at *due*, and tell that it was asked for."""
    activity = await crm.log_activity(
        session,
        kind="task",
        summary=f"Call back: {reason}",
        contact_id=contact_id,
        due_at=due,
        cause=cause,
        now=now,
    )
    if cause.call_id:
        await record(
            session,
            CallbackRequested(
                call_id=cause.call_id,
                activity_id=activity.id,
                contact_id=contact_id,
                number=number,
                due_at=due,
                reason=reason,
            ),
            now=now,
        )
    return activity


async def take_message(
    session: AsyncSession, *, contact_id: str | None, text: str, cause: crm.Cause, now: datetime
) -> Activity:
    """Keep a caller's message as a note on their contact and call."""
    if not text.strip():
        raise Invalid("the message is empty; ask the caller what to pass on")
    return await crm.log_activity(
        session,
        kind="note",
        summary=f"Message: {text.strip()}",
        contact_id=contact_id,
        cause=cause,
        now=now,
    )
