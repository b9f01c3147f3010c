"""Pages of webhooks: endpoints, what was sent to them, the events there are, and how to put things right."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Form, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse, Response

from trunkline import events
from trunkline.access.logins import Person
from trunkline.desk import event_log
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.messages import N_
from trunkline.web import paging
from trunkline.web.dashboard import render, snippets
from trunkline.web.dashboard.format import whole
from trunkline.web.dashboard.language import _, ngettext
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import status_of
from trunkline.web.people import may, note
from trunkline.webhooks import queries, repair, service, versions
from trunkline.webhooks.queries import DELIVERED, FAILED, HELD, PENDING

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_RECENT = 10
_LOOK_BACK = timedelta(hours=24)
_PARTS_AT_ONCE = 10
"""How many thousand events one press of Replay looks through."""
_NO_STORE = {"Cache-Control": "no-store"}
_STATES = (PENDING, HELD, DELIVERED, FAILED)
_DONE = {
    "saved": N_("Saved."),
    "on": N_("Switched on. What waited is sent now."),
    "off": N_("Switched off. New events pass it by until it is on again."),
    "test": N_("A test is on its way. Reload in a moment to see what came back."),
    "sample": N_("The sample is on its way. Reload in a moment to see what came back."),
    "resent": N_("Sent again. Reload in a moment to see what came back."),
    "deleted": N_("The endpoint is deleted. Its deliveries stay in the log."),
}

Text = Annotated[str, Form(max_length=2000)]
Lines = Annotated[str, Form(max_length=8000)]


# Endpoints ----------------------------------------------------------------------------------------


@router.get("/webhooks")
async def endpoints_page(
    parts: Parts, done: str = "", person: Person = may("webhooks:read")
) -> Response:
    """All endpoints and how they fared in the last 24 hours."""
    now = parts.now()
    async with parts.db.look() as session:
        rows = await queries.endpoints(session)
        health = await queries.health(session, now=now, span=_LOOK_BACK)
        off = await queries.switched_off(session)
    return render.page(
        "webhooks.html",
        person=person,
        off=off,
        endpoints=rows,
        health=health,
        done=_DONE.get(done, done and _counted(done)),
    )


@router.get("/webhooks/new")
async def new_endpoint_page(person: Person = may("webhooks:write")) -> Response:
    """The form for a new endpoint."""
    return _form(person, _blank())


@router.post("/webhooks/new")
async def create_endpoint(
    request: Request,
    parts: Parts,
    url: Text = "",
    description: Text = "",
    chosen: Annotated[list[str], Form(alias="events")] = [],  # noqa: B006 - FastAPI copies it
    headers: Lines = "",
    format: Text = "standard",
    ordered: bool = Form(False),
    rate: Text = "",
    ignored: Text = "",
    send_test: bool = Form(False),
    person: Person = may("webhooks:write"),
) -> Response:
    """Make it, and show its secret this once."""
    typed = {
        "url": url,
        "description": description,
        "events": chosen,
        "headers": headers,
        "format": format,
        "ordered": ordered,
        "rate": rate,
        "ignored": ignored,
    }
    now = parts.now()
    try:
        fields = _fields(typed)
        fields["headers"] = _headers(headers)
        async with parts.db.work() as session:
            endpoint, secret = await service.add_endpoint(
                session,
                options=parts.endpoint_options,
                now=now,
                **fields,
            )
            if send_test:
                await service.send_test(session, endpoint.id, now=now)
            await note(session, person, request, "endpoint.created", endpoint.id, now=now)
    except Invalid as error:
        return _form(person, {**typed, "send_test": send_test}, fault=render.sentence(error))
    return await _endpoint(parts, endpoint.id, person, secret=secret)


@router.get("/webhooks/events")
async def catalogue_page(person: Person = may("webhooks:read")) -> Response:
    """Every event there is, by family."""
    return render.page(
        "webhook_events.html",
        person=person,
        families=_families(),
        one=None,
        snippets=snippets.VERIFY,
    )


@router.get("/webhooks/events/{type_}")
async def event_page(type_: str, person: Person = may("webhooks:read")) -> Response:
    """One event: when it fires, its sample and its schema."""
    if type_ not in events.CATALOGUE:
        raise NotFound(f"there is no event {type_[:60]!r}; /webhooks/events lists them")
    one = {
        "type": type_,
        "summary": events.summary(type_),
        "sample": events.sample_body(type_),
        "schema": events.schema(type_),
        "opt_in": type_ in events.OPT_IN,
    }
    return render.page(
        "webhook_events.html",
        person=person,
        families=_families(),
        one=one,
        snippets=snippets.VERIFY,
    )


@router.get("/webhooks/{endpoint_id}")
async def endpoint_page(
    endpoint_id: str, parts: Parts, done: str = "", person: Person = may("webhooks:read")
) -> Response:
    """One endpoint: what it gets, how it fares, and what can be done about it."""
    return await _endpoint(parts, endpoint_id, person, done=done)


@router.post("/webhooks/{endpoint_id}")
async def change_endpoint(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    url: Text = "",
    description: Text = "",
    chosen: Annotated[list[str], Form(alias="events")] = [],  # noqa: B006 - FastAPI copies it
    headers: Lines = "",
    no_headers: bool = Form(False),
    format: Text = "standard",
    ordered: bool = Form(False),
    rate: Text = "",
    ignored: Text = "",
    version: Annotated[str, Form(max_length=200)] = "",
    person: Person = may("webhooks:write"),
) -> Response:
    """Save what was changed, unless somebody else did meanwhile; headers left empty stay as they are."""
    typed = {
        "url": url,
        "description": description,
        "events": chosen,
        "headers": headers,
        "format": format,
        "ordered": ordered,
        "rate": rate,
        "ignored": ignored,
        "version": version,
    }

    async def work(session: AsyncSession, now: datetime) -> None:
        fields = _fields(typed)
        if headers.strip() or no_headers:
            fields["headers"] = _headers(headers)
        await service.update_endpoint(
            session,
            endpoint_id,
            fields,
            options=parts.endpoint_options,
            seen=version or None,
            now=now,
        )

    return await _do(parts, request, person, endpoint_id, "endpoint.changed", work, "saved", typed)


@router.post("/webhooks/{endpoint_id}/enable")
async def switch_on(
    endpoint_id: str, request: Request, parts: Parts, person: Person = may("webhooks:write")
) -> Response:
    """What waited is sent."""

    async def work(session: AsyncSession, now: datetime) -> None:
        await service.set_enabled(session, endpoint_id, True, now=now)

    return await _do(parts, request, person, endpoint_id, "endpoint.enabled", work, "on")


@router.post("/webhooks/{endpoint_id}/disable")
async def switch_off(
    endpoint_id: str, request: Request, parts: Parts, person: Person = may("webhooks:write")
) -> Response:
    """New events pass it by."""

    async def work(session: AsyncSession, now: datetime) -> None:
        await service.set_enabled(session, endpoint_id, False, now=now)

    return await _do(parts, request, person, endpoint_id, "endpoint.switched_off", work, "off")


@router.post("/webhooks/{endpoint_id}/rotate")
async def rotate(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    overlap_h: Annotated[int, Form(ge=0, le=168)] = 24,
    person: Person = may("webhooks:write"),
) -> Response:
    """A new secret, shown this once; for *overlap_h* hours the old one signs too."""
    now = parts.now()
    async with parts.db.work() as session:
        secret = await service.rotate_secret(
            session,
            endpoint_id,
            options=parts.endpoint_options,
            overlap=timedelta(hours=overlap_h),
            now=now,
        )
        await note(session, person, request, "endpoint.rotated", endpoint_id, now=now)
    return await _endpoint(parts, endpoint_id, person, secret=secret)


@router.post("/webhooks/{endpoint_id}/test")
async def send_a_test(
    endpoint_id: str, request: Request, parts: Parts, person: Person = may("webhooks:write")
) -> Response:
    """Send ``endpoint.test`` to it alone."""

    async def work(session: AsyncSession, now: datetime) -> None:
        await repair.is_on(session, endpoint_id)
        await service.send_test(session, endpoint_id, now=now)

    return await _do(parts, request, person, endpoint_id, "endpoint.tested", work, "test")


@router.post("/webhooks/{endpoint_id}/sample")
async def send_a_sample(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    type_: Annotated[str, Form(alias="type", max_length=60)] = "",
    person: Person = may("webhooks:write"),
) -> Response:
    """Send the sample of one event to it alone."""

    async def work(session: AsyncSession, now: datetime) -> None:
        await repair.is_on(session, endpoint_id)
        await repair.send_sample(session, endpoint_id, type_, now=now)

    return await _do(parts, request, person, endpoint_id, "endpoint.tested", work, "sample")


@router.post("/webhooks/{endpoint_id}/recover")
async def recover(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    since: Text = "",
    person: Person = may("webhooks:write"),
) -> Response:
    """Send again all that was given up since then."""

    async def work(session: AsyncSession, now: datetime) -> str:
        count = await repair.recover(session, endpoint_id, since=_moment(since), now=now)
        return f"recovered-{count}"

    return await _do(parts, request, person, endpoint_id, "deliveries.recovered", work, "")


@router.post("/webhooks/{endpoint_id}/replay")
async def replay(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    since: Text = "",
    until: Text = "",
    type_: Annotated[str, Form(alias="type", max_length=60)] = "",
    subject: Annotated[str, Form(max_length=40)] = "",
    after: Annotated[int, Form(ge=0, lt=2**63)] = 0,
    sent: Annotated[int, Form(ge=0, lt=2**31)] = 0,
    person: Person = may("webhooks:write"),
) -> Response:
    """Send what happened, as if for the first time; when there is very much, a part at each press."""
    count, position = 0, after
    try:
        first, last = _moment(since), _moment(until) if until.strip() else None
        # Each part in its own transaction, so that deliveries begin while the rest is made.
        for _part in range(_PARTS_AT_ONCE):
            async with parts.db.work() as session:
                done = await repair.replay(
                    session,
                    endpoint_id,
                    events=[type_] if type_ else None,
                    since=first,
                    until=last,
                    subject=subject.strip() or None,
                    after=position,
                    now=parts.now(),
                )
                await note(
                    session, person, request, "events.replayed", endpoint_id, now=parts.now()
                )
            count += done.count
            if done.after is None:
                return RedirectResponse(
                    f"/webhooks/{endpoint_id}?done=replayed-{sent + count}", 303
                )
            position = done.after
    except (Invalid, Conflict) as error:
        fault = render.sentence(error)
        return await _endpoint(parts, endpoint_id, person, status=status_of(error), fault=fault)
    more = {
        "since": since,
        "until": until,
        "type": type_,
        "subject": subject,
        "after": position,
        "sent": sent + count,
    }
    return await _endpoint(parts, endpoint_id, person, more=more)


@router.post("/webhooks/{endpoint_id}/delete")
async def delete(
    endpoint_id: str,
    request: Request,
    parts: Parts,
    confirm: Text = "",
    person: Person = may("webhooks:write"),
) -> Response:
    """Delete it, once its host was typed."""
    now = parts.now()
    async with parts.db.look() as session:
        endpoint = await queries.endpoint(session, endpoint_id)
    host = urlsplit(endpoint.url).hostname or endpoint.id
    if confirm.strip().lower() != host:
        fault = _("Nothing was deleted: type %(host)s to confirm.", host=host)
        return await _endpoint(parts, endpoint_id, person, status=422, fault=fault)
    async with parts.db.work() as session:
        await service.remove_endpoint(session, endpoint_id, now=now)
        await note(session, person, request, "endpoint.deleted", endpoint_id, now=now)
    return RedirectResponse("/webhooks?done=deleted", 303)


# Deliveries ---------------------------------------------------------------------------------------


@router.get("/deliveries")
async def deliveries_page(
    parts: Parts,
    endpoint: Annotated[str, Query(max_length=40)] = "",
    state: Annotated[str, Query(max_length=10)] = "",
    type_: Annotated[str, Query(alias="type", max_length=60)] = "",
    subject: Annotated[str, Query(max_length=40)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    person: Person = may("webhooks:read"),
) -> Response:
    """What was sent, newest first."""
    after = paging.read_id("dlv", cursor)
    given = {"endpoint": endpoint, "state": state, "type": type_, "subject": subject.strip()}
    async with parts.db.look() as session:
        logs = await queries.deliveries(
            session,
            endpoint_id=endpoint or None,
            state=state or None,
            event_type=type_ or None,
            subject=given["subject"] or None,
            after=after,
            limit=_ON_A_PAGE + 1,
        )
        known = await queries.endpoints(session)
    shown, older = paging.cut(logs, _ON_A_PAGE, lambda log: log.delivery.id)
    query = {name: value for name, value in given.items() if value}
    return render.page(
        "deliveries.html",
        person=person,
        logs=shown,
        endpoints=known,
        given=given,
        states=_STATES,
        types=list(events.CATALOGUE),
        older=f"/deliveries?{urlencode({**query, 'cursor': older})}" if older else None,
        filtered=bool(query),
        cursor=cursor,
    )


@router.get("/deliveries/{delivery_id}")
async def delivery_page(
    delivery_id: str, parts: Parts, done: str = "", person: Person = may("webhooks:read")
) -> Response:
    """One delivery with every attempt: what was sent and what came back."""
    return await _delivery(parts, delivery_id, person, done=_DONE.get(done, ""))


@router.post("/deliveries/{delivery_id}/resend")
async def resend(
    delivery_id: str, request: Request, parts: Parts, person: Person = may("webhooks:write")
) -> Response:
    """Send it at once, with the whole schedule before it."""
    now = parts.now()
    try:
        async with parts.db.work() as session:
            await repair.resend(session, delivery_id, now=now)
            await note(session, person, request, "delivery.resent", delivery_id, now=now)
    except Conflict as error:
        fault = render.sentence(error)
        return await _delivery(parts, delivery_id, person, status=status_of(error), fault=fault)
    return RedirectResponse(f"/deliveries/{delivery_id}?done=resent", 303)


async def _delivery(
    web: Web, delivery_id: str, person: Person, *, status: int = 200, **facts: Any
) -> Response:
    async with web.db.look() as session:
        log = await queries.delivery(session, delivery_id)
        try:
            body = (await event_log.event(session, log.delivery.event_id)).body
        except NotFound:
            body = None
    return render.page(
        "delivery.html",
        person=person,
        status=status,
        log=log,
        delivery=log.delivery,
        body=body if person.may("calls:read") else None,
        **{"done": "", "fault": None, **facts},
    )


# What they share ----------------------------------------------------------------------------------


async def _do(
    web: Web,
    request: Request,
    person: Person,
    endpoint_id: str,
    action: str,
    work: Callable[[AsyncSession, datetime], Awaitable[str | None]],
    done: str,
    typed: Mapping[str, Any] | None = None,
) -> Response:
    """Do *work* in one transaction with its line in the audit, then show the endpoint or what is wrong."""
    now = web.now()
    try:
        async with web.db.work() as session:
            told = await work(session, now)
            await note(session, person, request, action, endpoint_id, now=now)
    except (Invalid, Conflict) as error:
        return await _endpoint(
            web,
            endpoint_id,
            person,
            status=status_of(error),
            fault=render.sentence(error),
            typed=typed,
        )
    return RedirectResponse(f"/webhooks/{endpoint_id}?done={told or done}", 303)


async def _endpoint(
    web: Web,
    endpoint_id: str,
    person: Person,
    *,
    status: int = 200,
    secret: str | None = None,
    done: str = "",
    fault: str | None = None,
    typed: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    now = web.now()
    async with web.db.look() as session:
        endpoint = await queries.endpoint(session, endpoint_id)
        health = await queries.health(session, now=now, span=_LOOK_BACK)
        logs = await queries.deliveries(session, endpoint_id=endpoint_id, limit=_RECENT)
    given = typed or {
        "url": endpoint.url,
        "description": endpoint.description or "",
        "events": endpoint.events,
        "headers": "",
        "format": endpoint.format,
        "ordered": endpoint.ordered,
        "rate": str(endpoint.rate_per_s or ""),
        "ignored": ", ".join(endpoint.ignored_sources),
    }
    return render.page(
        "webhook.html",
        person=person,
        status=status,
        headers=_NO_STORE if secret else None,
        endpoint=endpoint,
        # After a fault in what was typed, still the one that it was typed over.
        version=typed["version"] if typed and status == 422 else versions.version(endpoint),
        health=health.get(endpoint_id),
        logs=logs,
        given=given,
        families=_families(),
        samples=_samples(),
        snippets=snippets.VERIFY,
        more=more,
        types=list(events.CATALOGUE),
        secret=secret,
        old_secret_until=endpoint.old_secret_until
        if endpoint.old_secret_until and endpoint.old_secret_until > now
        else None,
        since=f"{now - _LOOK_BACK:%Y-%m-%dT%H:%M}",
        done=_DONE.get(done, done and _counted(done)),
        fault=fault,
    )


def _form(person: Person, given: Mapping[str, Any], *, fault: str | None = None) -> Response:
    return render.page(
        "webhook_new.html",
        person=person,
        status=422 if fault else 200,
        given=given,
        families=_families(),
        samples=_samples(),
        fault=fault,
    )


def _blank() -> dict[str, Any]:
    return {
        "url": "",
        "description": "",
        "events": ["*"],
        "headers": "",
        "format": "standard",
        "ordered": False,
        "rate": "",
        "ignored": "",
        "send_test": True,
    }


def _fields(typed: Mapping[str, Any]) -> service.EndpointFields:
    """What was typed, as the service takes it. Raises Invalid for a number that is none."""
    rate = typed["rate"].strip()
    if rate and not rate.isdecimal():
        raise Invalid(
            _(
                "the rate limit is a whole number of deliveries a second, not %(rate)s",
                rate=repr(rate[:20]),
            )
        )
    if not typed["events"]:
        raise Invalid(_("choose at least one event"))
    return {
        "url": typed["url"].strip(),
        "description": typed["description"].strip() or None,
        "events": typed["events"],
        "format": typed["format"],
        "ordered": typed["ordered"],
        "rate_per_s": int(rate) if rate else None,
        "ignored_sources": [one.strip() for one in typed["ignored"].split(",") if one.strip()],
    }


def _headers(text: str) -> dict[str, str]:
    """A line for each header, ``name: value``. Raises Invalid."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            # The line itself is not told: it may be a password.
            raise Invalid(_("write each header on a line of its own, as name: value"))
        found[name.strip()] = value.strip()
    return found


def _moment(text: str) -> datetime:
    """What a field for date and time sends, which is meant in UTC. Raises Invalid."""
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            _(
                "%(text)s is no date and time; write 2026-01-15T09:30 (UTC)",
                text=repr(text[:40]),
            )
        ) from None


def _counted(done: str) -> str:
    """What ``recovered-12`` says."""
    verb, _dash, count = done.partition("-")
    if not count.isdecimal():
        return ""
    number = int(count)
    shown = whole(number)
    if verb == "recovered":
        return ngettext(
            "%(count)s delivery is being sent again.",
            "%(count)s deliveries are being sent again.",
            number,
            count=shown,
        )
    if verb == "replayed":
        return ngettext(
            "%(count)s delivery is on its way.",
            "%(count)s deliveries are on their way.",
            number,
            count=shown,
        )
    return ""


def _families() -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Family → its events as (type, when it fires, whether it is only sent when asked for by name)."""
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for type_ in events.CATALOGUE:
        family = type_.partition(".")[0]
        found.setdefault(family, []).append((type_, events.summary(type_), type_ in events.OPT_IN))
    return list(found.items())


def _samples() -> dict[str, dict[str, Any]]:
    return {type_: events.sample_body(type_) for type_ in events.CATALOGUE}
