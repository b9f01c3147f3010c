"""Profiles and numbers: who answers, what they say, and what changes before it is published.

A draft lives in the form: it is reviewed against what answers now, and only then published. Whoever
publishes second sees what changed meanwhile and keeps what they typed.
"""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit import phone
from trunkline.kit.messages import N_
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries, service
from trunkline.profiles.body import TOOL_NAMES, ProfileBody, check, read
from trunkline.profiles.diff import differences
from trunkline.profiles.text import example, parse, write
from trunkline.web.dashboard import profile_form, render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import status_of
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)

_LONG = 200_000
_MANY = 500
_DONE = {
    "published": N_("Published: it answers from the next call on. Calls that run keep theirs."),
}

Short = Annotated[str, Form(max_length=300)]
Long = Annotated[str, Form(max_length=_LONG)]


@router.get("/profiles")
async def profiles_page(parts: Parts, person: Person = may("profiles:read")) -> Response:
    """Who can answer."""
    async with parts.db.look() as session:
        rows = await queries.profiles_page(session, after=None, limit=_MANY)
        counts = await queries.number_counts(session)
    return render.page("profiles.html", person=person, rows=rows, counts=counts)


@router.get("/profiles/new")
async def new_profile_page(parts: Parts, person: Person = may("profiles:write")) -> Response:
    """A file to begin with."""
    return _draft(person, name="", base=0, text=example(), changes=(), new=True)


@router.get("/profiles/{name}")
async def profile_page(
    name: str, parts: Parts, done: str = "", person: Person = may("profiles:read")
) -> Response:
    """What it says, in a plain form, and what it said before."""
    return await _profile(parts, name, person, done=_DONE.get(done, ""))


async def _profile(
    web: Web,
    name: str,
    person: Person,
    *,
    status: int = 200,
    fault: str | None = None,
    done: str = "",
    typed: Mapping[str, Any] | None = None,
) -> Response:
    async with web.db.look() as session:
        owner = await queries.named(session, name)
        current, body = await queries.published(session, owner.id)
        versions = await queries.versions(session, owner.id)
        numbers = [row for row in await queries.numbers(session) if row.profile_id == owner.id]
    shown = {**body.model_dump(mode="json"), **(typed or {})}
    return render.page(
        "profile.html",
        person=person,
        status=status,
        owner=owner,
        current=current,
        body=body,
        given=shown,
        versions=versions,
        numbers=numbers,
        tools=TOOL_NAMES,
        form=profile_form,
        text=write(body),
        fault=fault,
        done=done,
    )


@router.post("/profiles/{name}/review")
async def review(
    name: str,
    request: Request,
    parts: Parts,
    person: Person = may("profiles:write"),
) -> Response:
    """What would change, before it does."""
    form = await request.form()
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        current, body = await queries.published(session, owner.id)
    typed: dict[str, Any] = {}
    try:
        if "text" in form:
            draft = parse(str(form["text"]))
        else:
            now_says = body.model_dump(mode="json")
            typed = profile_form.taken(form, now_says)
            draft = read({**now_says, **typed})
        check(draft)
    except Invalid as error:
        fault = render.sentence(error)
        if "text" in form:
            return _draft(
                person,
                name=name,
                base=current.version,
                text=str(form["text"]),
                fault=fault,
                status=422,
            )
        return await _profile(parts, name, person, status=422, fault=fault, typed=typed)
    return _draft(
        person,
        name=name,
        base=_number_of(str(form.get("base", ""))) or current.version,
        text=write(draft),
        changes=differences(current.body, draft.model_dump(mode="json")),
        reviewed=True,
    )


@router.post("/profiles/publish")
async def publish(
    request: Request,
    parts: Parts,
    name: Short = "",
    base: Annotated[int, Form()] = 0,
    text: Long = "",
    person: Person = may("profiles:write"),
) -> Response:
    """Make it what answers; if somebody published meanwhile, show what they changed and keep the draft."""
    now = parts.now()
    try:
        draft = parse(text)
        async with parts.db.work() as session:
            owner = await queries.profile_named(session, " ".join(name.split()))
            if base == 0 and owner is not None:
                raise Conflict(
                    _(
                        "there is a profile %(name)s already; take another name",
                        name=repr(owner.name),
                    )
                )
            if owner is not None:
                current, _body = await queries.published(session, owner.id)
                if current.version != base:
                    before = await queries.version_numbered(session, owner.id, base)
                    theirs = differences(before.body if before else {}, current.body)
                    return _meanwhile(person, owner.name, current.version, text, theirs, draft)
            version, _made = await service.put_profile(session, name=name, body=draft, now=now)
            await note(
                session,
                person,
                request,
                "profile.published",
                version.profile_id,
                {"version": str(version.version)},
                now=now,
            )
    except (Invalid, Conflict) as error:
        return _draft(
            person,
            name=name,
            base=base,
            text=text,
            fault=render.sentence(error),
            status=status_of(error),
            new=base == 0,
        )
    return RedirectResponse(
        f"/profiles/{quote(' '.join(name.split()), safe='')}?done=published", 303
    )


def _meanwhile(
    person: Person, name: str, version: int, text: str, theirs: Any, draft: ProfileBody
) -> Response:
    return _draft(
        person,
        name=name,
        base=version,
        text=write(draft),
        theirs=theirs,
        fault=_(
            "Somebody published version %(version)s while you were writing. Nothing of yours is lost: "
            "see what they changed, take it over below if you want it, then publish again.",
            version=version,
        ),
        status=409,
    )


@router.get("/profiles/{name}/versions/{number}")
async def version_page(
    name: str, number: int, parts: Parts, person: Person = may("profiles:read")
) -> Response:
    """What it said then, and what differs from now."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        current, _body = await queries.published(session, owner.id)
        one = await queries.version_numbered(session, owner.id, min(number, 2_147_483_647))
    if one is None:
        raise NotFound(f"{owner.name!r} has no version {number}")
    return _draft(
        person,
        name=owner.name,
        base=current.version,
        text=write(read(one.body)),
        changes=differences(current.body, one.body),
        reviewed=True,
        old=one.version,
    )


@router.get("/profiles/{name}/profile.yaml")
async def export(name: str, parts: Parts, person: Person = may("profiles:read")) -> Response:
    """The file that `trunkline profile publish` takes."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        _current, body = await queries.published(session, owner.id)
    headers = {"Content-Disposition": 'attachment; filename="profile.yaml"'}
    return Response(write(body), media_type="application/yaml", headers=headers)


def _draft(
    person: Person,
    *,
    name: str,
    base: int,
    text: str,
    changes: Any = (),
    theirs: Any = (),
    fault: str | None = None,
    status: int = 200,
    reviewed: bool = False,
    old: int | None = None,
    new: bool = False,
) -> Response:
    return render.page(
        "profile_draft.html",
        person=person,
        status=status,
        name=name,
        base=base,
        text=text,
        changes=changes,
        theirs=theirs,
        fault=fault,
        reviewed=reviewed,
        old=old,
        new=new,
    )


def _number_of(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


# Numbers ------------------------------------------------------------------------------------------


@router.get("/numbers")
async def numbers_page(
    parts: Parts, done: str = "", person: Person = may("profiles:read")
) -> Response:
    """Our numbers and who answers each."""
    told = {
        "saved": _("Saved. LiveKit learns of a new number by: trunkline sip apply"),
        "gone": _("Removed."),
    }
    return await _numbers(parts, person, done=told.get(done, ""))


@router.post("/numbers")
async def set_number(
    request: Request,
    parts: Parts,
    number: Short = "",
    profile: Short = "",
    label: Short = "",
    timezone: Short = "",
    person: Person = may("profiles:write"),
) -> Response:
    """Let a profile answer a number, a new one or one that another answered."""
    now = parts.now()
    try:
        ours = _phone(number)
        async with parts.db.work() as session:
            owner = await queries.named(session, profile)
            before = await queries.find_number(session, ours.e164)
            region = before[0].region if before else service.region_of(ours)
            if region is None:
                raise Invalid(
                    _("this number belongs to no country; add it with: trunkline number set")
                )
            row = await service.assign_number(
                session,
                ours,
                owner.id,
                region=region,
                label=label.strip() or None,
                timezone=timezone.strip() or None,
                now=now,
            )
            await note(
                session, person, request, "number.set", row.id, {"profile": owner.name}, now=now
            )
    except (Invalid, NotFound) as error:
        typed = {"number": number, "profile": profile, "label": label, "timezone": timezone}
        return await _numbers(
            parts, person, fault=render.sentence(error), typed=typed, status=status_of(error)
        )
    return RedirectResponse("/numbers?done=saved", 303)


@router.post("/numbers/{number_id}/remove")
async def remove_number(
    number_id: str, request: Request, parts: Parts, person: Person = may("profiles:write")
) -> Response:
    """Nobody answers it any more."""
    now = parts.now()
    async with parts.db.work() as session:
        rows = [row for row in await queries.numbers(session) if row.id == number_id]
        if not rows:
            raise NotFound(f"there is no number {number_id[:60]}")
        await service.remove_number(session, rows[0].e164)
        await note(session, person, request, "number.removed", number_id, now=now)
    return RedirectResponse("/numbers?done=gone", 303)


async def _numbers(
    web: Web,
    person: Person,
    *,
    status: int = 200,
    done: str = "",
    fault: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    async with web.db.look() as session:
        rows = await queries.numbers_page(session, after=None, limit=_MANY)
        names = [one.name for one in await queries.profiles(session)]
    blank = {"number": "", "profile": "", "label": "", "timezone": ""}
    return render.page(
        "numbers.html",
        person=person,
        status=status,
        rows=rows,
        names=names,
        given=typed or blank,
        done=done,
        fault=fault,
    )


def _phone(text: str) -> PhoneNumber:
    try:
        return phone.parse(text, region=None)
    except ValueError as error:
        raise Invalid(str(error)) from None
