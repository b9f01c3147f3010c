"""The bodies of ``trunkline sip plan|apply|show``, ``route`` and ``provision``.

Each returns what is to be told: sentences for people and data for ``--json``. What goes wrong is raised
as one of our errors, each a sentence.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from trunkline.desk import caps, door
from trunkline.desk.arrival import Foreseen, foresee
from trunkline.desk.door import House
from trunkline.errors import Invalid, Misconfigured, Unavailable
from trunkline.kit import phone
from trunkline.kit.db import Database
from trunkline.kit.http import open_client
from trunkline.kit.livekit import (
    Kind,
    LiveKit,
    LiveKitFailed,
    LiveKitOptions,
    Stored,
    open_livekit,
)
from trunkline.profiles import queries as profiles
from trunkline.profiles.queries import Answering
from trunkline.trunks import files, provision
from trunkline.trunks.apply import apply
from trunkline.trunks.join import Joined, join
from trunkline.trunks.options import TrunkOptions
from trunkline.trunks.plan import (
    Difference,
    Plan,
    Step,
    body_for,
    make_plan,
    name_of,
    plus,
    without_secrets,
)
from trunkline.trunks.route import Way, follow

_WORDS: dict[Kind, str] = {"inbound": "inbound trunk", "outbound": "outbound trunk", "rule": "rule"}
_SIGNS = {"create": "+", "update": "~", "delete": "-"}


@dataclass(frozen=True)
class Told:
    """What a command has to say. ``ok`` False is exit code 1."""

    ok: bool
    data: dict[str, Any]
    lines: tuple[str, ...]


async def sip_plan(options: TrunkOptions, db: Database) -> Told:
    """What ``apply`` would do. Changes nothing. Not ok when something of other people's is in the way."""
    joined = await _joined(options, db)
    async with _livekit(options) as livekit:
        plan = make_plan(joined.wanted, await livekit.stored())
    return _plan_told(plan, joined.notes, livekit.url)


async def sip_apply(
    options: TrunkOptions, db: Database, on_step: Callable[[str], None] | None = None
) -> Told:
    """Make LiveKit hold what files and numbers say; *on_step* hears each step when it is done.

    Not ok, and nothing changed, when something of other people's is in the way.
    """
    joined = await _joined(options, db)
    async with _livekit(options) as livekit:
        plan = make_plan(joined.wanted, await livekit.stored())
        if plan.conflicts:
            return _plan_told(plan, joined.notes, livekit.url)

        def tell(step: Step) -> None:
            if on_step:
                on_step(_step_line(step))

        done = await apply(livekit, plan, tell)
    said = f"{_count(done, 'step')} done" if done else "nothing to do"
    return Told(
        True,
        {
            "livekit": livekit.url,
            "done": [_step_data(s) for s in plan.steps],
            "notes": joined.notes,
        },
        (f"LiveKit at {livekit.url}: {said}.", *(f"  note: {note}" for note in joined.notes)),
    )


async def sip_show(options: TrunkOptions) -> Told:
    """What LiveKit has, ours and other people's; secrets hidden."""
    async with _livekit(options) as livekit:
        stored = [without_secrets(one) for one in await livekit.stored()]
    lines = [
        f"LiveKit at {livekit.url} has {_count(len(stored), 'trunk or rule', 'trunks and rules')}."
    ]
    for one in stored:
        ours = "ours" if name_of(one) is not None else "not ours"
        lines.append(f"  {_WORDS[one.kind]} {one.name or '(no name)'} ({one.id}), {ours}")
        lines += [f"      {name}: {_value(v)}" for name, v in one.body.items() if name in _TOLD]
    data = {
        "livekit": livekit.url,
        "stored": [
            {
                "kind": s.kind,
                "id": s.id,
                "name": s.name,
                "ours": name_of(s) is not None,
                "body": s.body,
            }
            for s in stored
        ],
    }
    return Told(True, data, tuple(lines))


async def route(
    options: TrunkOptions,
    db: Database,
    number: str,
    *,
    caller: str | None,
    offline: bool,
    now: datetime,
) -> Told:
    """Who would take a call to *number*, as the carrier writes it; not ok when nobody would.

    Read from LiveKit's stored trunks and rules and its workers, or with *offline* from files and table.
    """
    dialled, calling = _as_sent(number, "number"), _as_sent(caller, "--from") if caller else None
    if offline:
        source = f"the files in {options.folder}"
        joined = await _joined(options, db)
        way = follow(dialled, calling, [Stored(w.kind, w.name, body_for(w)) for w in joined.wanted])
        if way.agent:
            way.note("worker", None, "not asked for: --offline looks at files only")
    else:
        async with _livekit(options) as livekit:
            source = f"LiveKit at {livekit.url}"
            way = follow(dialled, calling, await livekit.stored())
            if way.agent:
                await _look_for_worker(way, way.agent, livekit, options.worker_patience)
    await _look_for_profile(way, plus(dialled), calling, db, house=options.house, now=now)
    return _route_told(way, dialled, calling, source)


async def provision_number(
    options: TrunkOptions,
    provider: provision.Provider,
    number: str,
    *,
    transport: provision.Transport,
    dry_run: bool,
    client: httpx.AsyncClient | None = None,
) -> Told:
    """Make *provider* send calls to *number* to our livekit-sip; with *dry_run* only say what it takes."""
    if not options.sip_host:
        raise Misconfigured(
            "TRUNKLINE_SIP_HOST is not set; it is the public name of livekit-sip, like sip.example.com"
        )
    to = provision.Destination.parse(options.sip_host, transport)
    try:
        ours = phone.parse(number, region=None)
    except ValueError as error:
        raise Invalid(str(error)) from error
    opened = client or open_client(
        connect=timedelta(seconds=5), total=options.patience, max_connections=2
    )
    try:
        work = await provision.provision(
            provider,
            ours,
            to,
            options.environment,
            client=opened,
            patience=options.patience,
            dry_run=dry_run,
        )
    finally:
        if client is None:
            await opened.aclose()
    would = "would " if dry_run else "did "
    lines = [f"  is there: {line}" for line in work.found] + [
        f"  {would}{line}" for line in work.done
    ]
    if not work.done:
        lines.append(f"{provider} needs nothing.")
    elif dry_run:
        lines.append("Nothing was changed (--dry-run).")
    lines.append(f"Next: trunkline sip apply, then trunkline route {ours.e164}")
    data = {
        "provider": provider,
        "number": ours.e164,
        "destination": to.uri,
        "dry_run": dry_run,
        "found": work.found,
        "done": work.done,
    }
    return Told(True, data, tuple(lines))


# --- looking --------------------------------------------------------------------------------------


@asynccontextmanager
async def _livekit(options: TrunkOptions) -> AsyncIterator[LiveKit]:
    missing = [
        name
        for name, value in {
            "LIVEKIT_URL": options.livekit_url,
            "LIVEKIT_API_KEY": options.livekit_api_key,
            "LIVEKIT_API_SECRET": options.livekit_api_secret,
        }.items()
        if not value
    ]
    if missing:
        raise Misconfigured(
            f"missing: {', '.join(missing)}; set them in the environment or in .env"
        )
    try:
        async with open_livekit(
            LiveKitOptions(
                url=options.livekit_url or "",
                api_key=options.livekit_api_key or "",
                api_secret=options.livekit_api_secret or "",
                timeout=options.patience,
            )
        ) as livekit:
            yield livekit
    except LiveKitFailed as error:
        raise Unavailable(str(error)) from error


async def _joined(options: TrunkOptions, db: Database) -> Joined:
    read = files.read(options.folder)
    async with db.look() as session:
        numbers = [number.e164 for number in await profiles.numbers(session)]
    return join(read, numbers, options.environment)


async def _look_for_worker(way: Way, agent: str, livekit: LiveKit, patience: timedelta) -> None:
    if await livekit.answers(agent, patience=patience):
        way.note("worker", True, f"a worker for {agent!r} is registered and free")
    else:
        way.note(
            "worker",
            False,
            f"no worker for {agent!r} is registered and free (start one with: trunkline worker)",
        )


async def _look_for_profile(
    way: Way, dialled: str, caller: str | None, db: Database, *, house: House, now: datetime
) -> None:
    number = way.number or dialled
    async with db.look() as session:
        found = await foresee(session, number, caller, house=house, now=now)
    if found is None:
        way.note("profile", False, f"{number} leads to no published profile")
        return
    own, on_duty = found.own, found.on_duty
    way.note("profile", True, f"{_named(own)}, answers {number}")
    way.note("hours", True, _hours_say(found, now))
    if found.own is not found.on_duty:
        way.note("profile", True, f"{_named(on_duty)}, answers in its place")
    kind, reason = found.door.kind, found.door.reason or ""
    if kind is door.Kind.BLOCKED:
        way.note("caller", False, f"{reason}: rejected, the line ends unanswered")
    elif kind is door.Kind.MESSAGE:
        way.note("caller", True, f"{reason}: may leave a message, nothing else")
    elif kind is door.Kind.CAPACITY:
        way.note("lines", False, f"{reason} at this moment")
    elif caps.any_cap(on_duty.body.limits, house):
        way.note("lines", True, f"there is room at this moment ({_caps_say(on_duty, house)})")


def _named(one: Answering) -> str:
    return f"{one.profile.name!r}, version {one.version.version}"


def _hours_say(found: Foreseen, now: datetime) -> str:
    body, opening = found.own.body, found.opening
    local = now.astimezone(ZoneInfo(body.timezone))
    clock = f"{body.timezone}, {local:%A %H:%M}"
    day = f", on {opening.holiday.name}" if opening.holiday else ""
    if not (body.hours or body.holidays):
        return "always open"
    if opening.is_open:
        return f"open at this moment{day} ({clock})"
    closed = f"closed at this moment{day} ({clock})"
    if found.own is not found.on_duty:
        return f"{closed}: {found.on_duty.profile.name!r} answers after hours"
    if body.after_hours is not None:
        return f"{closed}: {body.after_hours!r} is to answer after hours, but is not there"
    return f"{closed}: it is answered all the same, and the agent knows that it is closed"


def _caps_say(answering: Answering, house: House) -> str:
    limits = answering.body.limits
    said = [
        (limits.max_calls, "with this profile"),
        (house.max_calls, "in all"),
        (limits.max_calls_per_caller_per_hour, "of one caller in an hour"),
    ]
    return ", ".join(f"{cap} {what}" for cap, what in said if cap is not None)


def _as_sent(text: str, what: str) -> str:
    """A number as a carrier sends it: without what people put between digits; the + stays as it is."""
    plain = "".join(c for c in text if c not in " -().\u00a0")
    if not plain.lstrip("+").isascii() or not plain.lstrip("+").isdigit():
        raise Invalid(f"{what}: {phone.mask(text)!r} is no number; write it like +12025550100")
    return plain


# --- telling --------------------------------------------------------------------------------------

_TOLD = ("numbers", "trunk_ids", "allowed_addresses", "attributes", "address", "room_config")


def _plan_told(plan: Plan, notes: Sequence[str], url: str) -> Told:
    lines = [line for step in plan.steps for line in _step_lines(step)]
    lines += [f"  ! {conflict}" for conflict in plan.conflicts]
    lines += [f"  note: {note}" for note in notes]
    if plan.foreign:
        others = _count(len(plan.foreign), "trunk or rule", "trunks and rules")
        lines.append(f"  note: {others} of other people's, left alone")
    said = f"{_count(len(plan.steps), 'step')} to do" if plan.steps else "nothing to do"
    if plan.conflicts:
        said = "something is in the way, nothing will be applied"
    data = {
        "livekit": url,
        "steps": [_step_data(step) for step in plan.steps],
        "conflicts": list(plan.conflicts),
        "notes": list(notes),
        "foreign": [{"kind": one.kind, "id": one.id, "name": one.name} for one in plan.foreign],
    }
    return Told(not plan.conflicts, data, (f"LiveKit at {url}: {said}.", *lines))


def _step_data(step: Step) -> dict[str, Any]:
    return {
        "action": step.action,
        "kind": step.kind,
        "name": step.name,
        "id": step.id,
        "why": step.why,
        "differences": [asdict(difference) for difference in step.differences],
    }


def _step_line(step: Step) -> str:
    why = f": {step.why}" if step.why else ""
    return f"  {_SIGNS[step.action]} {step.action} {_WORDS[step.kind]} {step.name}{why}"


def _step_lines(step: Step) -> Iterator[str]:
    yield _step_line(step)
    for difference in step.differences:
        yield f"      {difference.field}: {_drift(difference)}"
    if step.action == "create":
        yield from (
            f"      {name}: {_value(step.body[name])}" for name in _TOLD if step.body.get(name)
        )


def _drift(difference: Difference) -> str:
    return f"{_value(difference.have)} → {_value(difference.want)}"


def _value(value: Any) -> str:
    if value is None or value in ([], {}):
        return "(unset)"
    if isinstance(value, list):
        shown = [_value(item) for item in value[:4]]
        return ", ".join(shown) + (f" and {len(value) - 4} more" if len(value) > 4 else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(inner)}" for name, inner in value.items()) + "}"
    return str(value)


def _route_told(way: Way, dialled: str, caller: str | None, source: str) -> Told:
    faults = [finding for finding in way.findings if finding.ok is False]
    reason = faults[0].says if faults else None
    # Without a profile the agent comes, finds nothing to say and hangs up; all else is silence.
    rings = bool(faults) and faults[0].part not in ("profile", "caller", "lines")
    if reason is None:
        verdict = "It would be answered."
    elif rings:
        verdict = f"It would ring for ever: {reason}."
    elif faults[0].part == "caller":
        verdict = f"It would not be answered: {reason}."
    elif faults[0].part == "lines":
        verdict = f"It would be told that all lines are busy: {reason}."
    else:
        verdict = f"It would be taken and hung up at once: {reason}."
    known = any(f.part == "profile" and f.ok for f in way.findings)
    hint = "Run trunkline sip plan: it shows where LiveKit differs from files and numbers."
    hints = (hint,) if known and faults and faults[0].part in ("trunk", "rule", "agent") else ()
    marks = {True: "ok", False: "NO", None: "?"}
    lines = [f"A call to {dialled} from {caller or 'a hidden number'}, as {source} would take it:"]
    lines += [f"  {marks[f.ok]:2} {f.part:8} {f.says}" for f in way.findings]
    data = {
        "number": dialled,
        "from": caller,
        "source": source,
        "answered": reason is None,
        "rings_for_ever": rings,
        "reason": reason,
        "findings": [asdict(finding) for finding in way.findings],
    }
    return Told(reason is None, data, (*lines, verdict, *hints))


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
