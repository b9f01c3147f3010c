"""One call with everything that is known of it, over all domains.

However long the call was, it takes the same number of queries.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries as calls
from trunkline.calls import review, search
from trunkline.calls.filters import Filters
from trunkline.calls.models import Recording, ToolRun, Turn
from trunkline.calls.queries import Cursor
from trunkline.calls.query import Query
from trunkline.calls.review import Marks
from trunkline.calls.transcript import merge
from trunkline.crm import queries as crm
from trunkline.crm.models import Activity, Change, Contact, Deal
from trunkline.crm.service import CREATED
from trunkline.desk.call_list import CallRow, rows
from trunkline.outbox.models import EventRow
from trunkline.profiles.models import Profile, ProfileVersion
from trunkline.webhooks import queries as webhooks
from trunkline.webhooks.queries import DeliveryLog

_NEAR_MS = 2000
"""A turn begins where its first word was written down, a little off from where its sound begins."""


@dataclass(frozen=True)
class TurnLine:
    """What one side said, or pressed, until the other's turn."""

    id: str
    seq: int
    role: str
    """user or agent."""
    text: str
    language: str | None
    started_ms: int
    """Milliseconds from the answer, as in the recording."""
    ended_ms: int | None
    """None while it is being spoken."""
    interrupted: bool
    latency: dict[str, Any] | None
    """Parts of the reply time in milliseconds."""
    models: dict[str, str] | None
    """Part (stt; llm, tts) → provider and model."""
    felt_ms: int | None = None
    """Of a reply: from the caller's last sound to the agent's first, measured from the recording."""


@dataclass(frozen=True)
class ChangeLine:
    """One field of the CRM that this call changed, or a thing it made (field ``*``)."""

    id: str
    entity: str
    entity_id: str
    title: str | None
    """The thing's name: of the contact, the deal, the activity."""
    field: str
    before: Any
    after: Any
    source: str
    tool_run_id: str | None
    turn_id: str | None
    offset_ms: int | None
    """Milliseconds into the recording where it was agreed to."""
    quote: str | None
    """What was said in that turn."""
    created_at: datetime
    undone_at: datetime | None

    @property
    def may_be_undone(self) -> bool:
        """Whether there is something to take back; contacts that came into being stay, calls name them."""
        created_contact = self.entity == "contact" and self.field == CREATED
        deleted = self.field == CREATED and self.after is None
        return self.undone_at is None and not created_contact and not deleted


@dataclass(frozen=True)
class ToolLine:
    """One run of one tool."""

    id: str
    seq: int
    name: str
    arguments: dict[str, Any]
    state: str
    """started, ok or error."""
    result: str | None
    error: str | None
    turn_id: str | None
    offset_ms: int | None
    """Milliseconds into the recording where it began."""
    ms: int | None
    """How long it took; None while it runs."""


@dataclass(frozen=True)
class Moment:
    """One entry of the timeline: either a turn, or a tool run with what it changed."""

    at_ms: int | None
    turn: TurnLine | None = None
    tool: ToolLine | None = None
    changes: tuple[ChangeLine, ...] = ()


@dataclass(frozen=True)
class ActivityLine:
    """Something that was written down, or is to be done, because of this call."""

    id: str
    kind: str
    summary: str
    deal_title: str | None
    due_at: datetime | None
    done_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class DeliveryLine:
    """One event of this call on its way to one endpoint."""

    id: str
    event_id: str
    event_type: str
    endpoint_id: str
    url: str
    state: str
    attempts: int
    last_status: int | None
    """HTTP status of the last attempt; None without an answer."""
    last_error: str | None
    next_at: datetime | None
    """When it is tried next; only while it is pending."""
    delivered_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Sound:
    """The recording: stereo, the caller left, the agent right."""

    id: str
    state: str
    """open, ready or incomplete."""
    duration_ms: int | None
    sample_rate_hz: int
    playable: bool
    peaks: tuple[tuple[int, int], ...]
    """Waveform, (left, right) from 0 to 100, in equal steps over the duration."""


@dataclass(frozen=True)
class AnsweredBy:
    """The profile that answered, in the version it had then."""

    profile_id: str
    name: str
    version: int


@dataclass(frozen=True)
class Arrival:
    """How the call came to us, as far as it is known."""

    attestation: str | None
    """How far the carrier vouches for the caller's number: A, B or C."""
    door: str | None
    """How it was let in or turned away, a ``desk.door.Kind``."""
    door_reason: str | None
    room: str
    sip_call_id: str | None


@dataclass(frozen=True)
class CallPage:
    """Everything about one call."""

    call: CallRow
    arrival: Arrival
    marks: Marks
    """What people have said of it."""
    answered_by: AnsweredBy | None
    turns: tuple[TurnLine, ...]
    tool_runs: tuple[ToolLine, ...]
    changes: tuple[ChangeLine, ...]
    activities: tuple[ActivityLine, ...]
    deliveries: tuple[DeliveryLine, ...]
    recording: Sound | None
    timeline: tuple[Moment, ...]
    """Turns and tool runs in the order in which they began."""
    usage: dict[str, Any] | None = None
    """What it took of its providers and what that cost, as ``calls.usage.bill`` writes it."""

    @property
    def felt_ms(self) -> int | None:
        """The median of what the caller waited for a reply; None when it was not measured."""
        felt = [turn.felt_ms for turn in self.turns if turn.felt_ms is not None]
        return round(median(felt)) if felt else None


async def page(session: AsyncSession, call_id: str) -> CallPage:
    """The call with that id. Raises NotFound."""
    call = await calls.call(session, call_id)
    (row,) = await rows(session, [call])
    turn_rows = await calls.turns(session, call_id)
    run_rows = await calls.tool_runs(session, call_id)
    change_rows = await crm.changes_of_call(session, call_id)
    activity_rows = await crm.activities_of_call(session, call_id)
    titles = await _titles(session, change_rows, activity_rows)
    said = {turn.id: turn.text for turn in turn_rows}
    changes = tuple(_change(change, titles, said) for change in change_rows)
    recording = await calls.recording(session, call_id)
    felt = _felt(turn_rows, recording.replies or () if recording else ())
    deliveries = await webhooks.deliveries_of_subject(session, call_id)
    return CallPage(
        call=row,
        arrival=Arrival(call.attestation, call.door, call.door_reason, call.room, call.sip_call_id),
        marks=await review.marks(session, call_id),
        answered_by=await _answered_by(session, call.profile_version_id),
        usage=call.usage,
        turns=tuple(_turn(turn, felt) for turn in turn_rows),
        tool_runs=tuple(_tool(run) for run in run_rows),
        changes=changes,
        activities=tuple(_activity(activity, titles) for activity in activity_rows),
        deliveries=tuple(_delivery(log) for log in deliveries),
        recording=_sound(recording) if recording else None,
        timeline=_timeline(turn_rows, run_rows, changes, felt),
    )


async def transcript(session: AsyncSession, call_id: str) -> tuple[TurnLine, ...]:
    """What was said in the call. Raises NotFound."""
    await calls.call(session, call_id)
    turns = await calls.turns(session, call_id)
    recording = await calls.recording(session, call_id)
    felt = _felt(turns, recording.replies or () if recording else ())
    return tuple(_turn(turn, felt) for turn in turns)


async def events(session: AsyncSession, call_id: str) -> Sequence[EventRow]:
    """What was told about the call, in order. Raises NotFound."""
    await calls.call(session, call_id)
    found = await session.scalars(
        select(EventRow).where(EventRow.subject == call_id).order_by(EventRow.seq)
    )
    return found.all()


async def neighbours(
    session: AsyncSession, call: CallRow, filters: Filters, wanted: Query | None
) -> tuple[str | None, str | None]:
    """The calls beside this one in a filtered list, newer and older; None where it ends."""
    return await search.neighbours(session, filters, wanted, Cursor(call.started_at, call.id))


def _felt(turns: Sequence[Turn], replies: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Turn → how long the caller waited for it. A reply belongs to the agent's turn that begins nearest."""
    spoken = [turn for turn in turns if turn.role == "agent"]
    felt: dict[str, int] = {}
    for reply in replies:
        near = min(spoken, key=lambda turn: abs(turn.started_ms - reply["at_ms"]), default=None)
        if near is not None and abs(near.started_ms - reply["at_ms"]) <= _NEAR_MS:
            felt.setdefault(near.id, reply["after_ms"])
    return felt


def _timeline(
    turns: Sequence[Turn],
    runs: Sequence[ToolRun],
    changes: Sequence[ChangeLine],
    felt: Mapping[str, int],
) -> tuple[Moment, ...]:
    by_run: dict[str, list[ChangeLine]] = defaultdict(list)
    for change in changes:
        if change.tool_run_id:
            by_run[change.tool_run_id].append(change)
    return tuple(
        Moment(entry.started_ms, turn=_turn(entry, felt))
        if isinstance(entry, Turn)
        else Moment(entry.offset_ms, tool=_tool(entry), changes=tuple(by_run[entry.id]))
        for entry in merge(turns, runs)
    )


def _turn(turn: Turn, felt: Mapping[str, int]) -> TurnLine:
    return TurnLine(
        id=turn.id,
        seq=turn.seq,
        role=turn.role,
        text=turn.text,
        language=turn.language,
        started_ms=turn.started_ms,
        ended_ms=turn.ended_ms,
        interrupted=turn.interrupted,
        latency=turn.latency,
        felt_ms=felt.get(turn.id),
        models=turn.models,
    )


def _tool(run: ToolRun) -> ToolLine:
    return ToolLine(
        id=run.id,
        seq=run.seq,
        name=run.name,
        arguments=run.arguments,
        state=run.state,
        result=run.result,
        error=run.error,
        turn_id=run.turn_id,
        offset_ms=run.offset_ms,
        ms=run.ms,
    )


def _change(change: Change, titles: dict[str, str | None], said: dict[str, str]) -> ChangeLine:
    return ChangeLine(
        id=change.id,
        entity=change.entity,
        entity_id=change.entity_id,
        title=titles.get(change.entity_id),
        field=change.field,
        before=change.before,
        after=change.after,
        source=change.source,
        tool_run_id=change.tool_run_id,
        turn_id=change.turn_id,
        offset_ms=change.offset_ms,
        quote=said.get(change.turn_id or ""),
        created_at=change.created_at,
        undone_at=change.undone_at,
    )


def _activity(activity: Activity, titles: dict[str, str | None]) -> ActivityLine:
    return ActivityLine(
        id=activity.id,
        kind=activity.kind,
        summary=activity.summary,
        deal_title=titles.get(activity.deal_id or ""),
        due_at=activity.due_at,
        done_at=activity.done_at,
        created_at=activity.created_at,
    )


def _sound(recording: Recording) -> Sound:
    return Sound(
        id=recording.id,
        state=recording.state,
        duration_ms=recording.duration_ms,
        sample_rate_hz=recording.sample_rate_hz,
        playable=recording.blob_key is not None,
        peaks=tuple((peak["left"], peak["right"]) for peak in recording.peaks or ()),
    )


async def _titles(
    session: AsyncSession, changes: Iterable[Change], activities: Iterable[Activity]
) -> dict[str, str | None]:
    """The names of all that was changed, by id."""
    ids = {change.entity_id for change in changes}
    ids |= {activity.deal_id for activity in activities if activity.deal_id}
    titles: dict[str, str | None] = {}
    for found in (
        select(Contact.id, Contact.name).where(Contact.id.in_(ids)),
        select(Deal.id, Deal.title).where(Deal.id.in_(ids)),
        select(Activity.id, Activity.summary).where(Activity.id.in_(ids)),
    ):
        titles |= {row[0]: row[1] for row in await session.execute(found)}
    return titles


async def _answered_by(session: AsyncSession, version_id: str | None) -> AnsweredBy | None:
    if version_id is None:
        return None
    found = (
        await session.execute(
            select(Profile.id, Profile.name, ProfileVersion.version)
            .join(Profile, Profile.id == ProfileVersion.profile_id)
            .where(ProfileVersion.id == version_id)
        )
    ).one_or_none()
    return AnsweredBy(*found) if found else None


def _delivery(log: DeliveryLog) -> DeliveryLine:
    delivery, last = log.delivery, log.attempts[-1] if log.attempts else None
    return DeliveryLine(
        id=delivery.id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        endpoint_id=delivery.endpoint_id,
        url=log.endpoint.url,
        state=delivery.state,
        attempts=delivery.attempts,
        last_status=last.status if last else None,
        last_error=last.error if last else None,
        next_at=delivery.next_at if delivery.state == "pending" else None,
        delivered_at=delivery.delivered_at,
        created_at=delivery.created_at,
    )
