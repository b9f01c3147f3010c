"""Calling people: whether we may, when, as whom, and what follows a call that reached nobody.

The rules are asked twice: when a call is asked for, where a no is an error, and when it is about to be
dialled, where a no ends it with that reason.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries as call_reads
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Call
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.errors import (
    CalledEnough,
    Conflict,
    DoNotCall,
    Invalid,
    NotFound,
    OutsideHours,
    TrunklineError,
)
from trunkline.kit import phone
from trunkline.profiles import queries as profiles
from trunkline.profiles.behaviour import Outbound
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.hours import covers
from trunkline.profiles.queries import Answering

AGAIN_AFTER = (5, 10, 20, 40, 60)
"""Seconds after which an agent that did not come is sent for again; the last of them from then on."""

CAP_LOOK = timedelta(seconds=3)
"""A call that waits for another to end is looked at again after this long."""

PATIENCE = timedelta(minutes=5)
"""When no agent has come for so long, the call ends as ``capacity``."""

_LOCK_KEY = 0x6469_616C  # "dial": any number that no other advisory lock of the database uses

_REASONS: dict[type[TrunklineError], EndReason] = {
    DoNotCall: EndReason.DO_NOT_CALL,
    OutsideHours: EndReason.OUTSIDE_HOURS,
}

_MACHINES = (EndReason.VOICEMAIL, EndReason.VOICEMAIL_LEFT, EndReason.FAX)


async def queue_call(
    session: AsyncSession,
    *,
    to: str | None,
    from_number: str | None = None,
    profile: str | None = None,
    reason: str | None = None,
    activity_id: str | None = None,
    not_before: datetime | None = None,
    cause: crm.Cause,
    now: datetime,
) -> Call:
    """A call to *to*, dialled as soon as a worker is free and not before *not_before*.

    *from_number* is the number of ours that is shown, *profile* a name; either gives the other, and
    neither is needed where only one profile calls out. With the task *activity_id*, *to* and
    *reason* may come from it, and it is done once somebody has answered.

    Raises Invalid for a number that is none, NotFound, Conflict when the profile does not call out or
    the task is in hand, and DoNotCall, OutsideHours or CalledEnough.
    """
    if activity_id is not None:
        to, reason = await _of_task(session, activity_id, to, reason)
    if to is None:
        raise Invalid("say which number to call, or name a task whose contact has one")
    try:
        callee = phone.parse(to, region=None)
    except ValueError as error:
        raise Invalid(f"{error}; write it with + and the country code") from None
    caller = await _caller(session, from_number, profile)
    outbound = _outbound(caller)
    contact = await crm_reads.contact_by_number(session, callee.e164)
    due_at = max(now, not_before) if not_before else now
    _may_be_called(contact is not None and contact.do_not_call)
    _is_hour(caller.body, outbound, callee.e164, due_at)
    await _not_too_often(session, outbound, callee.e164, now=now)
    return await calls.queue(
        session,
        from_number=caller.number.e164,
        to_number=callee.e164,
        contact_id=contact.id if contact else None,
        profile_version_id=caller.version.id,
        reason=reason,
        activity_id=activity_id,
        due_at=due_at,
        source=cause.source,
        now=now,
    )


async def next_to_dial(session: AsyncSession, *, now: datetime) -> Call | None:
    """The next queued call for which an agent is to be sent now; None when there is none.

    The call is due again after a while, should no agent come. Calls that may not be made any more, or
    for which none came for too long, are ended on the way; one that others of its profile leave
    no room for waits. Of several that ask at the same moment, each gets another call.
    """
    if session.get_bind().dialect.name == "postgresql":
        # One at a time, or two would count the same calls and pass the cap together.
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    while (call := await calls.due(session, now=now)) is not None:
        reason = await _forbidden(session, call, now=now)
        if reason is None and call.sent_at is not None and now - call.sent_at >= PATIENCE:
            reason = EndReason.CAPACITY
        if reason is not None:
            await calls.end(session, call.id, reason, now=now)
        elif not call.sent and await _is_full(session, call):
            await calls.postpone(session, call, due_at=now + CAP_LOOK)
        else:
            wait = AGAIN_AFTER[min(call.sent, len(AGAIN_AFTER) - 1)]
            await calls.send_for_agent(
                session, call, again_at=now + timedelta(seconds=wait), now=now
            )
            return call
    return None


async def begin(
    session: AsyncSession, call_id: str, *, now: datetime
) -> tuple[Call, ProfileBody] | None:
    """The calling agent is about to dial, with the body of its profile. None: nothing to dial."""
    call = await call_reads.call(session, call_id)
    if call.state != State.QUEUED:
        return None
    reason = await _forbidden(session, call, now=now)
    if reason is not None:
        await calls.end(session, call_id, reason, now=now)
        return None
    if await calls.dial(session, call_id, now=now) is None:
        return None
    caller = await _begun(session, call)
    assert caller is not None
    return call, caller.body


async def settle(session: AsyncSession, call: Call, *, now: datetime) -> Call | None:
    """What follows a call that we placed and that is over: its task is done, or the next attempt.

    Belongs into the transaction of the end. Returns the next attempt, if there is to be one.
    """
    if call.direction != "outbound" or call.end_reason is None:
        return None
    reason = EndReason(call.end_reason)
    if call.answered_at is not None:
        if call.activity_id is not None and reason not in _MACHINES:
            cause = crm.Cause(source="call", call_id=call.id)
            await crm.complete_task(session, call.activity_id, cause=cause, now=now)
        return None
    if reason not in (EndReason.BUSY, EndReason.NO_ANSWER):
        return None
    caller = await _begun(session, call)
    if caller is None or caller.body.outbound is None or call.to_number is None:
        return None
    outbound = caller.body.outbound
    if call.attempt >= outbound.max_attempts:
        return None
    due_at = next_hour(
        caller.body, outbound, call.to_number, now + timedelta(minutes=outbound.retry_after_min)
    )
    if due_at is None:
        return None
    return await calls.queue(
        session,
        from_number=caller.number.e164,
        to_number=call.to_number,
        contact_id=call.contact_id,
        profile_version_id=caller.version.id,
        reason=call.reason,
        activity_id=call.activity_id,
        due_at=due_at,
        retry_of=call.retry_of or call.id,
        attempt=call.attempt + 1,
        source="call",
        now=now,
    )


# The rules ----------------------------------------------------------------------------------------


def zones(body: ProfileBody, e164: str) -> Sequence[str]:
    """In whose time the hours for calling *e164* are read.

    Where the number is, as far as it tells. Of several zones the profile's own is taken if it is among
    them, else all count; a number that tells nothing is read in the profile's.
    """
    found = [name for name in phone.zones(e164) if _is_known(name)]
    if not found or body.timezone in found:
        return (body.timezone,)
    return found


def may_call_at(body: ProfileBody, outbound: Outbound, e164: str, moment: datetime) -> bool:
    """Whether *moment* is an hour at which *e164* may be called."""
    return all(covers(outbound.hours, zone, moment) for zone in zones(body, e164))


def next_hour(
    body: ProfileBody, outbound: Outbound, e164: str, moment: datetime
) -> datetime | None:
    """The first moment from *moment* on, to the quarter of an hour, at which it may be called.

    None when there is none within eight days.
    """
    for quarter in range(8 * 24 * 4):
        at = moment + timedelta(minutes=15 * quarter)
        if may_call_at(body, outbound, e164, at):
            return at
    return None


def _may_be_called(do_not_call: bool) -> None:
    if do_not_call:
        raise DoNotCall("this contact asked not to be called; nobody is called against their will")


def _is_hour(body: ProfileBody, outbound: Outbound, e164: str, at: datetime) -> None:
    if may_call_at(body, outbound, e164, at):
        return
    (zone, *more) = zones(body, e164)
    there = at.astimezone(ZoneInfo(zone))
    where = f"{zone} and {len(more)} other zones" if more else zone
    after = next_hour(body, outbound, e164, at)
    hint = (
        f"give not_before {after.isoformat(timespec='minutes')} or later"
        if after
        else "the profile's outbound.hours allow no hour of the week"
    )
    raise OutsideHours(
        f"it is {there:%A %H:%M} in {where}, outside the hours in which the profile calls; {hint}"
    )


async def _not_too_often(
    session: AsyncSession, outbound: Outbound, e164: str, *, now: datetime
) -> None:
    most = outbound.max_calls_per_number_per_day
    if await call_reads.placed_to(session, e164, since=now - timedelta(hours=24)) >= most:
        raise CalledEnough(
            f"this number was called {most} times within 24 hours, which is as often as "
            "the profile's outbound.max_calls_per_number_per_day allows"
        )


async def _forbidden(session: AsyncSession, call: Call, *, now: datetime) -> EndReason | None:
    """Why a queued call may not be made now; None when it may."""
    caller = await _begun(session, call)
    if caller is None or caller.body.outbound is None or call.to_number is None:
        return EndReason.NO_PROFILE
    contact = await crm_reads.contact_by_number(session, call.to_number)
    try:
        _may_be_called(contact is not None and contact.do_not_call)
        _is_hour(caller.body, caller.body.outbound, call.to_number, now)
    except (DoNotCall, OutsideHours) as error:
        return _REASONS[type(error)]
    return None


async def _is_full(session: AsyncSession, call: Call) -> bool:
    caller = await _begun(session, call)
    assert caller is not None
    assert caller.body.outbound is not None
    versions = [one.id for one in await profiles.versions(session, caller.profile.id)]
    return await call_reads.being_placed(session, versions) >= caller.body.outbound.max_calls


# As whom ------------------------------------------------------------------------------------------


async def _caller(session: AsyncSession, number: str | None, profile: str | None) -> Answering:
    """The number that is shown and the profile that talks."""
    ours = [await _answering(session, one.e164) for one in await profiles.numbers(session)]
    if number is not None:
        try:
            e164 = phone.parse(number, region=None).e164
        except ValueError as error:
            raise Invalid(f"{error}; write it with + and the country code") from None
        found = [one for one in ours if one.number.e164 == e164]
        if not found:
            raise Invalid(f"{phone.mask(e164)} is no number of ours, so it can't be shown")
        if profile is None or found[0].profile.name == profile:
            return found[0]
        standing_in = await profiles.instead(session, found[0], profile)
        if standing_in is None:
            raise NotFound(f"there is no profile {profile!r}")
        return standing_in
    if profile is not None and await profiles.profile_named(session, profile) is None:
        raise NotFound(f"there is no profile {profile!r}")
    found = [one for one in ours if profile is None or one.profile.name == profile]
    if profile is None:
        found = [one for one in found if one.body.outbound is not None]
    if not found:
        raise Conflict(
            f"the profile {profile!r} has no number of its own; say which of ours to show"
            if profile
            else "no number of ours has a profile that calls out; give one its part 'outbound'"
        )
    if profile is None and len({one.profile.id for one in found}) > 1:
        names = ", ".join(sorted({repr(one.profile.name) for one in found}))
        raise Invalid(f"several profiles call out; say which: {names}")
    return found[0]


async def _answering(session: AsyncSession, e164: str) -> Answering:
    found = await profiles.answering(session, e164)
    assert found is not None, "a number always has a profile"
    return found


def _outbound(caller: Answering) -> Outbound:
    if caller.body.outbound is None:
        raise Conflict(
            f"the profile {caller.profile.name!r} does not call out; "
            "give it the part 'outbound' with its opening words"
        )
    return caller.body.outbound


async def _begun(session: AsyncSession, call: Call) -> Answering | None:
    """The profile as it was when the call was asked for; None when its number is none of ours now."""
    ours = await profiles.answering(session, call.from_number or "")
    if ours is None or call.profile_version_id is None:
        return None
    return await profiles.as_begun(session, ours, call.profile_version_id)


async def _of_task(
    session: AsyncSession, activity_id: str, to: str | None, reason: str | None
) -> tuple[str, str]:
    task = await crm_reads.activity(session, activity_id)
    if task.kind != "task":
        raise Conflict(f"{activity_id} is a {task.kind}; only a task can be called for")
    if task.done_at is not None:
        raise Conflict(f"the task {activity_id} is done")
    if (there := await call_reads.open_call_for(session, activity_id)) is not None:
        raise Conflict(f"{there.id} is being made for that task")
    if to is None and task.contact_id is not None:
        contact = await crm_reads.contact(session, task.contact_id)
        to = next((one.e164 for one in contact.phones), None)
    if to is None:
        raise Invalid(f"the task {activity_id} has no contact with a number; say which to call")
    said = task.summary.removeprefix("Call back:").strip()[:600]
    return to, reason or said or "your request"


def _is_known(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        return False
    return True
