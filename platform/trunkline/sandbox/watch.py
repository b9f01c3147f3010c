"""Shows a call in the terminal while it is on, from what is stored of it, and sums it up as data."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from trunkline.calls import queries as calls
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage, ChangeLine
from trunkline.kit.audio import Interval, read_wav, reply_latencies, silence_after_barge_in, sounds
from trunkline.kit.blobs import BlobMissing, Blobs
from trunkline.kit.db import Database
from trunkline.kit.phone import parse
from trunkline.sandbox.receiver import Received, Receiver

_LOOK = timedelta(milliseconds=150)
"""How often a live call is read. Each look is a handful of reads of one call."""

_PATIENCE = timedelta(seconds=15)
"""How long after a call its deliveries and its recording are waited for."""


class Watch:
    """Prints what is new about one call each time it looks."""

    def __init__(self, db: Database, receiver: Receiver, console: Console) -> None:
        self._db, self._receiver, self._console = db, receiver, console
        self._shown: set[str] = set()

    async def follow(self, room: str, over: asyncio.Event) -> CallPage:
        """Show the call of *room* until *over* is set and everything about it has come in."""
        page = None
        while not over.is_set():
            page = await self._look(room)
            try:
                await asyncio.wait_for(over.wait(), _LOOK.total_seconds())
            except TimeoutError:
                continue
        try:
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                while page is None or not _complete(page):
                    page = await self._look(room)
                    await asyncio.sleep(_LOOK.total_seconds())
        except TimeoutError:
            self._say("  ! not everything about this call has come in", "yellow")
            if page is None:
                raise
        return page

    async def _look(self, room: str) -> CallPage | None:
        async with self._db.look() as session:
            call = await calls.call_in_room(session, room)
            if call is None:
                return None
            page = await call_page.page(session, call.id)
        self._show(page)
        return page

    def _show(self, page: CallPage) -> None:
        call = page.call
        if self._once(f"ring {call.id}"):
            self._say(
                f"  ringing    {_number(call.from_number)} → {_number(call.to_number)}", "bold"
            )
            self._say(f"  caller     {call.contact.name if call.contact else 'not in the CRM'}")
        if call.answered_at and self._once(f"answer {call.id}"):
            rang_ms = round((call.answered_at - call.started_at).total_seconds() * 1000)
            self._say(f"  answered   after {rang_ms} ms", "dim")
        for moment in page.timeline:
            if moment.turn and moment.turn.ended_ms is not None and self._once(moment.turn.id):
                turn = moment.turn
                who = "agent" if turn.role == "agent" else "caller"
                cut = " … (interrupted)" if turn.interrupted else ""
                style = "cyan" if turn.role == "agent" else "green"
                self._say(f"  {_at(turn.started_ms)} {who:<6} {turn.text}{cut}", style)
            if moment.tool and moment.tool.state != "started" and self._once(moment.tool.id):
                run = moment.tool
                said = run.result if run.state == "ok" else f"failed: {run.error}"
                self._say(
                    f"  {_at(run.offset_ms)} tool   {run.name} → {said} ({run.ms} ms)", "magenta"
                )
        for change in page.changes:
            if self._once(change.id):
                self._say(f"  {_at(change.offset_ms)} crm    {_told(change)}", "yellow")
        for delivery in page.deliveries:
            if delivery.state != "pending" and self._once(delivery.id):
                verified = verified_by(self._receiver.received, delivery.event_id)
                self._say(
                    f"           webhook {delivery.event_type} → {delivery.last_status}, "
                    f"signature {'verified' if verified else 'NOT VERIFIED'}",
                    "blue",
                )

    def _once(self, key: str) -> bool:
        if key in self._shown:
            return False
        self._shown.add(key)
        return True

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), highlight=False, soft_wrap=True)


def _complete(page: CallPage) -> bool:
    return (
        not page.call.live
        and all(delivery.state != "pending" for delivery in page.deliveries)
        and any(delivery.event_type == "call.ended" for delivery in page.deliveries)
        and (page.recording is None or page.recording.state != "open")
        and (
            page.recording is None
            or any(delivery.event_type == "recording.ready" for delivery in page.deliveries)
        )
    )


def verified_by(received: Sequence[Received], event_id: str) -> bool:
    """Whether the receiver got that event and every copy of it verified."""
    copies = [one for one in received if one.event_id == event_id]
    return bool(copies) and all(one.verified for one in copies)


@dataclass(frozen=True)
class Hearing:
    """What a recording tells, in milliseconds."""

    greeting_ms: int | None = None
    """From the answer to the agent's first sound; None when it said nothing."""
    replies_ms: tuple[int, ...] = ()
    """From the caller's last sound to the agent's first, for each reply."""
    stops_ms: tuple[int, ...] = ()
    """How long the agent went on after each time the caller broke in."""


async def hearing(page: CallPage, blobs: Blobs) -> Hearing:
    """Measure the recording of *page*; nothing when there is none."""
    if page.recording is None or not page.recording.playable:
        return Hearing()
    try:
        samples, rate = read_wav(await blobs.get(recording_key(page)))
    except BlobMissing:
        return Hearing()
    left: list[Interval] = sounds(samples[:, 0], rate)
    right: list[Interval] = sounds(samples[:, 1], rate)
    return Hearing(
        right[0].start_ms if right else None,
        tuple(reply_latencies(left, right)),
        tuple(silence_after_barge_in(left, right)),
    )


def recording_key(page: CallPage) -> str:
    """The blob that holds the call's recording."""
    return f"recordings/{page.call.id}.wav"


def document(
    page: CallPage, received: Sequence[Received], replies: Sequence[int], blobs_folder: Path
) -> dict[str, Any]:
    """One call of the demo's document, as the design's command contract writes it."""
    call = page.call
    return {
        "id": call.id,
        "state": call.state,
        "end_reason": call.end_reason,
        "contact": call.contact.name if call.contact else None,
        "turns": [
            {
                "role": turn.role,
                "text": turn.text,
                "started_ms": turn.started_ms,
                "interrupted": turn.interrupted,
                "models": turn.models or {},
            }
            for turn in page.turns
        ],
        "tool_runs": [
            {"name": run.name, "ok": run.state == "ok", "ms": run.ms} for run in page.tool_runs
        ],
        "changes": [
            {
                "entity": change.entity,
                "field": change.field,
                "before": change.before,
                "after": change.after,
            }
            for change in page.changes
        ],
        "deliveries": [
            {
                "event": delivery.event_type,
                "status": delivery.last_status,
                "verified": verified_by(received, delivery.event_id),
            }
            for delivery in page.deliveries
        ],
        "recording": str(blobs_folder / recording_key(page)) if page.recording else None,
        "latency_ms": {"p50": percentile(replies, 50), "p95": percentile(replies, 95)},
    }


def percentile(values: Sequence[int], rank: int) -> int | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * rank // 100) - 1)]


def _told(change: ChangeLine) -> str:
    thing = f"{change.entity} {change.title or change.entity_id}"
    if change.field == "*":
        return f"{thing}: created"
    return f"{thing}: {change.field} {change.before} → {change.after}"


def _at(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "        "
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes:02d}:{rest / 1000:04.1f} s"


def _number(e164: str | None) -> str:
    return parse(e164, region=None).international if e164 else "hidden number"
