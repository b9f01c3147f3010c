"""Logging in, what each role may do, and who is kept out."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from trunkline.access import logins, passwords, queries
from trunkline.access import service as access
from trunkline.access.models import User
from trunkline.access.roles import MAY, Role
from trunkline.errors import Invalid, Refused, TooMany
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.dashboard.format import browser as browser_name
from trunkline.web.options import WebOptions
from trunkline.web.people import COOKIE, next_page

if TYPE_CHECKING:
    from tests.wire.conftest import Clock

GOOD = "correct horse battery staple"
HASH = passwords.hashed(GOOD)
"""Hashed once: it is slow on purpose."""
S = timedelta(seconds=1)


@pytest.fixture
def app(sqlite_db: Database, tmp_path: Path, clock: "Clock") -> FastAPI:
    return create_app(sqlite_db, open_blobs(BlobOptions(str(tmp_path / "b"))), WebOptions(), clock)


def browser(app: FastAPI, address: str = "203.0.113.7") -> httpx.AsyncClient:
    """A browser somewhere on the internet, over https."""
    transport = httpx.ASGITransport(app=app, client=(address, 40_000), raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport,
        base_url="https://trunkline.example",
        headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
    )


@pytest.fixture
async def page(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(app) as client:
        yield client


async def somebody(db: Database, role: Role, now: datetime) -> User:
    """An account with the password GOOD."""
    async with db.work() as session:
        row, token = await access.invite(
            session, role=role, email=f"{role}@example.com", by=None, now=now
        )
        assert row.email is not None
        return await access.accept(
            session, token, email=row.email, name=f"The {role}", password_hash=HASH, now=now
        )


async def log_in(page: httpx.AsyncClient, email: str, password: str = GOOD) -> httpx.Response:
    return await page.post("/login", data={"email": email, "password": password})


# --- the first owner ------------------------------------------------------------------------------


async def test_the_first_owner(
    sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """The link of the first start makes an owner, once; then there is no other."""
    async with sqlite_db.work() as session:
        old = await access.first_owner(session, now=clock.now)
        token = await access.first_owner(session, now=clock.now)
    assert old is not None
    assert token is not None
    assert "Nobody has an account yet" in (await page.get("/login")).text
    assert (await page.get(f"/welcome/{old}")).status_code == 404  # only the one shown last
    assert (await page.get(f"/welcome/{token}")).status_code == 200
    form = {"email": "Dana@Example.com", "name": "Dana", "password": "short"}
    weak = await page.post(f"/welcome/{token}", data=form)
    assert weak.status_code == 422
    assert "12 to 200 characters" in weak.text
    assert 'value="Dana@Example.com"' in weak.text  # nothing typed is lost but the password
    assert "short" not in weak.text
    made = await page.post(f"/welcome/{token}", data=form | {"password": GOOD})
    assert (made.status_code, made.headers["location"]) == (303, "/")
    cookie = made.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for flag in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
        assert flag in cookie
    assert "Domain" not in cookie
    assert (await page.get("/people")).status_code == 200
    assert (await page.post(f"/welcome/{token}", data=form)).status_code == 404
    async with sqlite_db.work() as session:
        assert await access.first_owner(session, now=clock.now) is None
        (user,) = await queries.users(session)
    assert (user.email, user.role) == ("dana@example.com", "owner")


@pytest.mark.parametrize(
    ("password", "email", "says"),
    [
        ("elevenchars", "", "12 to 200"),
        ("x" * 201, "", "12 to 200"),
        ("password1234", "", "guessed"),  # a worn one with digits behind it
        ("123456789012", "", "guessed"),
        ("aaaaaaaaaaaaaaa", "", "guessed"),
        ("dana.whitfield1", "dana.whitfield@example.com", "guessed"),  # one's own name
    ],
)
def test_a_password_that_would_be_guessed(password: str, email: str, says: str) -> None:
    """Too short, worn or one's own address: refused with what to do instead."""
    with pytest.raises(Invalid, match=says):
        passwords.check(password, email=email.replace(".", "") if "." in password else email)


# --- in and out -----------------------------------------------------------------------------------


async def test_in_and_out(sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock") -> None:
    """A page leads to the login and from there back; logging out ends it on the server too."""
    await somebody(sqlite_db, Role.VIEWER, clock.now)
    away = await page.get("/calls?cursor=x")
    assert away.status_code == 303
    assert away.headers["location"] == "/login?next=/calls%3Fcursor%3Dx"
    assert (await page.get("/calls", headers={"Accept": "application/json"})).status_code == 401
    wrong = await log_in(page, "viewer@example.com", "not the right one")
    nobody = await log_in(page, "nobody@example.com")
    assert (wrong.status_code, nobody.status_code) == (401, 401)
    assert "do not belong together" in wrong.text
    assert re.sub(r'value="[^"]*"', "", wrong.text) == re.sub(r'value="[^"]*"', "", nobody.text)
    there = await page.post(
        "/login", data={"email": "VIEWER@example.com ", "password": GOOD, "next": "/calls"}
    )
    assert (there.status_code, there.headers["location"]) == (303, "/calls")
    assert (await page.get("/calls")).status_code == 200
    kept = page.cookies[COOKIE]
    gone = await page.post("/logout")
    assert gone.headers["location"] == "/login"
    assert "Max-Age=0" in gone.headers["set-cookie"]
    stolen = {"Cookie": f"{COOKIE}={kept}"}
    assert (await page.get("/calls", headers=stolen)).status_code == 303


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        ("/calls?x=1", "/calls?x=1"),
        (None, "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/calls\r\nSet-Cookie: x", "/"),
        ("/login?next=/login", "/"),  # round and round
    ],
)
def test_the_way_back_is_ours(asked: str | None, gets: str) -> None:
    """After the login one only ever gets to a page of this server."""
    assert next_page(asked) == gets


async def test_guessing_is_slowed_down(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """After five failures even the right password must wait; from elsewhere it still works."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    for _ in range(logins.PER_ACCOUNT_AND_ADDRESS):
        assert (await log_in(page, "owner@example.com", "wrong")).status_code == 401
    stopped = await log_in(page, "owner@example.com")
    assert stopped.status_code == 429
    assert "Try again in 15 minutes" in stopped.text
    async with browser(app, "198.51.100.9") as elsewhere:
        assert (await log_in(elsewhere, "owner@example.com")).status_code == 303
    clock.now += logins.WINDOW
    assert (await log_in(page, "owner@example.com")).status_code == 303


async def test_one_address_cannot_try_everybody(db: Database, now: datetime) -> None:
    """Thirty failures from one address stop it, whoever's account they were tried on."""
    async with db.work() as session:
        for n in range(logins.PER_ADDRESS):
            await logins.check_throttle(session, f"{n}@example.com", "203.0.113.7", now=now)
            await logins.note_failure(session, f"{n}@example.com", "203.0.113.7", now=now)
        with pytest.raises(TooMany):
            await logins.check_throttle(session, "new@example.com", "203.0.113.7", now=now)
        await logins.check_throttle(session, "new@example.com", "198.51.100.9", now=now)


# --- how long a login lasts -----------------------------------------------------------------------


async def test_a_login_is_renewed_and_ends(
    sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """The token is replaced each hour, the old one works a minute more; unused for 12 hours it is over."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    await log_in(page, "owner@example.com")
    first = page.cookies[COOKIE]
    clock.now += logins.ROTATE + S
    renewed = await page.get("/calls")
    assert COOKIE in renewed.headers["set-cookie"]
    assert page.cookies[COOKIE] != first
    old = {"Cookie": f"{COOKIE}={first}"}
    clock.now += 59 * S
    assert (await page.get("/calls", headers=old)).status_code == 200
    clock.now += 2 * S
    assert (await page.get("/calls", headers=old)).status_code == 303
    assert (await page.get("/calls")).status_code == 200
    clock.now += logins.IDLE
    assert (await page.get("/calls")).status_code == 303


async def test_a_login_never_lasts_longer_than_two_weeks(db: Database, now: datetime) -> None:
    """However often it is used."""
    user = await somebody(db, Role.OWNER, now)
    async with db.work() as session:
        user = await queries.user(session, user.id)
        _, token = await logins.open_login(
            session, user, method="password", address=None, browser=None, now=now
        )
    at = now
    while at + 11 * timedelta(hours=1) < now + logins.LONGEST:
        at += 11 * timedelta(hours=1)
        async with db.work() as session:
            assert await logins.person(session, token, now=at) is not None
            token = await logins.keep_fresh(session, token, now=at) or token
    async with db.look() as session:
        assert await logins.person(session, token, now=now + logins.LONGEST) is None


async def test_whoever_is_shut_out_is_out_at_once(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """Another role, a new password and shutting out end every login there is."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    user = await somebody(sqlite_db, Role.VIEWER, clock.now)
    await log_in(page, "owner@example.com")
    async with browser(app) as theirs:
        for path, data in (
            (f"/people/{user.id}/role", {"role": "manager"}),
            (f"/people/{user.id}/disable", {}),
        ):
            assert (await log_in(theirs, "viewer@example.com")).status_code == 303
            assert (await page.post(path, data=data)).status_code == 303
            assert (await theirs.get("/calls")).status_code == 303
        assert (await log_in(theirs, "viewer@example.com")).status_code == 401


async def test_one_browser_or_all_of_somebody(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """One's own browsers can be logged out one by one, nobody else's; an owner logs others out everywhere,
    sees when each was last here and how they log in."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    user = await somebody(sqlite_db, Role.VIEWER, clock.now)
    await log_in(page, "owner@example.com")
    async with browser(app) as phone, browser(app) as desk:
        await log_in(phone, "viewer@example.com")
        await log_in(desk, "viewer@example.com")
        text = (await desk.get("/account")).text
        assert text.count("by password") == 2
        (other,) = re.findall(r"/account/logins/(lgn_\w+)/end", text)
        assert (await page.post(f"/account/logins/{other}/end")).status_code == 404  # not theirs
        assert (await phone.get("/calls")).status_code == 200
        ended = await desk.post(f"/account/logins/{other}/end")
        assert ended.headers["location"] == "/account?done=login"
        assert (await phone.get("/calls")).status_code == 303
        listed = (await page.get("/people")).text
        assert "Logs in with password" in listed
        assert "open in 1 browser" in listed
        out = await page.post(f"/people/{user.id}/logins/end")
        assert out.headers["location"] == "/people?done=out"
        assert (await desk.get("/calls")).status_code == 303
        assert (await page.post("/people/usr_nobody/logins/end")).status_code == 404
        assert "Logged somebody out everywhere" in (await page.get("/audit")).text


async def test_the_last_owner_stays(db: Database, now: datetime) -> None:
    """Nobody can take away the last account that may manage the others."""
    owner = await somebody(db, Role.OWNER, now)
    async with db.work() as session:
        with pytest.raises(Refused, match="last owner"):
            await access.set_role(session, owner.id, "viewer", now=now)
        with pytest.raises(Refused, match="last owner"):
            await access.disable(session, owner.id, now=now)


async def test_a_new_password(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """The present one is asked for; afterwards every other browser is logged out, this one is not."""
    await somebody(sqlite_db, Role.MANAGER, clock.now)
    await log_in(page, "manager@example.com")
    async with browser(app) as other:
        await log_in(other, "manager@example.com")
        new = {"old": "nonsense", "new": "another four good words"}
        refused = await page.post("/account/password", data=new)
        assert refused.status_code == 422
        assert "present password is not right" in refused.text
        done = await page.post("/account/password", data=new | {"old": GOOD})
        assert done.headers["location"] == "/account?done=password"
        assert (await page.get("/account?done=password")).status_code == 200
        assert (await other.get("/calls")).status_code == 303
        assert (await log_in(other, "manager@example.com")).status_code == 401
        assert (
            await log_in(other, "manager@example.com", "another four good words")
        ).status_code == 303


# --- forged requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),  # a form on another site
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another host of the same organisation
        ({"Sec-Fetch-Site": "none"}, 403),  # no form of ours is opened from a bookmark
        ({"Sec-Fetch-Site": "", "Origin": "https://trunkline.example"}, 403),
        ({"Origin": "https://trunkline.example"}, 303),  # an older browser
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),  # a sandboxed frame
        ({}, 403),  # says nothing of itself
    ],
)
async def test_a_form_of_another_site(
    sqlite_db: Database,
    page: httpx.AsyncClient,
    clock: "Clock",
    headers: dict[str, str],
    status: int,
) -> None:
    """Only our own pages can send a form that changes something."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    await log_in(page, "owner@example.com")
    del page.headers["Sec-Fetch-Site"]
    assert (await page.post("/logout", headers=headers)).status_code == status


# --- the matrix -----------------------------------------------------------------------------------


def pages_of(routes: Sequence[Any]) -> Iterator[APIRoute]:
    """Every page; routers that were included stand in the list as themselves."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from pages_of(route.original_router.routes)
        elif isinstance(route, APIRoute) and not route.include_in_schema:
            yield route


def doors(app: FastAPI) -> Iterator[tuple[str, str, str | None]]:
    """Method, path and scope of every page that asks who is there."""
    for route in pages_of(app.routes):
        scopes = [
            getattr(part.call, "scope", None)
            for part in route.dependant.dependencies
            if part.name == "person"
        ]
        for method in route.methods or ():
            if scopes:
                yield method, route.path, scopes[0]


OPEN = {
    "/login",
    "/login/oidc",
    "/login/oidc/callback",
    "/welcome/{token}",
    "/assets/{file}",
    "/errors/{code}",
    "/livekit/webhook",
    "/livekit/probe/{room}",
}
"""Pages that ask nobody who they are, each shows or does nothing that is anybody's."""


def test_no_page_forgets_to_ask(app: FastAPI) -> None:
    """Every page that is not listed as open asks who is there."""
    asking = {(method, path) for method, path, _ in doors(app)}
    pages = list(pages_of(app.routes))
    assert len(pages) > 15
    for route in pages:
        if route.path not in OPEN:
            assert {(method, route.path) for method in route.methods or ()} <= asking, route.path


@pytest.mark.parametrize("role", [*Role, None])
async def test_each_page_and_role(
    sqlite_db: Database, app: FastAPI, clock: "Clock", role: Role | None
) -> None:
    """Each page × role: whoever has its scope gets past the door, whoever has not is told why."""
    if role is not None:
        await somebody(sqlite_db, role, clock.now)
    checked = 0
    for method, path, scope in doors(app):
        if path == "/logout":
            continue
        async with browser(app) as page:
            if role is not None:
                await log_in(page, f"{role}@example.com")
            answer = await page.request(method, re.sub(r"\{[^}]+\}", "call_nothing", path))
        code = re.search(r"Error <code>(\w+)</code>", answer.text)
        checked += 1
        if role is None:
            assert answer.headers["location"].startswith("/login"), path
        elif scope is None or scope in MAY[role]:
            assert not code or code[1] != "not_allowed", (path, role)
        else:
            assert answer.status_code == 403, (path, role)
            assert code
            assert code[1] == "not_allowed", (path, role)
    assert checked > 8


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_is_replaced_on_its_page(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """A key is made with an end, and replaced with an overlap; after it the API refuses the old one.
    Nobody gets hold of a key that may do more than they."""
    await somebody(sqlite_db, Role.INTEGRATOR, clock.now)
    await log_in(page, "integrator@example.com")
    made = await page.post("/keys", data={"name": "Sync", "scopes": "calls:read", "days": "90"})
    (old,) = re.findall(r"<code class=\"command\">(tl_[\w-]{43})<", made.text)
    assert re.search(r"Ends <time[^>]*2026-04-15", made.text)
    odd = await page.post("/keys", data={"name": "Sync", "scopes": "calls:read", "days": "-1"})
    assert (odd.status_code, "how long" in odd.text) == (422, True)
    (path,) = re.findall(r"/keys/key_\w+/rotate", made.text)
    replaced = await page.post(path, data={"overlap": "1"})
    (new,) = re.findall(r"<code class=\"command\">(tl_[\w-]{43})<", replaced.text)
    bearer = {name: {"Authorization": f"Bearer {name}"} for name in (old, new)}
    assert [(await page.get("/v1/me", headers=bearer[k])).status_code for k in (old, new)] == [
        200,
        200,
    ]
    clock.now += timedelta(hours=1)
    assert [(await page.get("/v1/me", headers=bearer[k])).status_code for k in (old, new)] == [
        401,
        200,
    ]
    again = await page.post(path, data={"overlap": "1"})
    assert (again.status_code, "opens nothing any more" in again.text) == (422, True)
    async with sqlite_db.work() as session:
        strong, _ = await access.add_key(
            session, name="Archive", scopes=["recordings:read"], now=clock.now
        )
    refused = await page.post(f"/keys/{strong.id}/rotate", data={"overlap": "0"})
    assert (refused.status_code, "has no recordings:read" in refused.text) == (422, True)
    assert "tl_" not in re.sub("tl_…", "", refused.text)
    async with sqlite_db.look() as session:
        assert len([key for key in await queries.keys(session) if key.name == "Archive"]) == 1


@pytest.mark.parametrize(
    ("role", "gives"), [(Role.OWNER, 200), (Role.INTEGRATOR, 422), (Role.MANAGER, 403)]
)
async def test_who_lets_a_program_read_the_audit(
    sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock", role: Role, gives: int
) -> None:
    """An owner makes a key that may; an integrator is not offered it and cannot give it away all the same,
    and nobody makes a key that makes keys."""
    await somebody(sqlite_db, role, clock.now)
    await log_in(page, f"{role}@example.com")
    form = (await page.get("/keys")).text
    assert ('value="audit:read"' in form) == (gives == 200)
    assert ('value="keys:read"' in form) == (gives != 403)
    assert 'value="keys:write"' not in form
    made = await page.post("/keys", data={"name": "Archive", "scopes": "audit:read"})
    assert made.status_code == gives
    no_key = await page.post("/keys", data={"name": "Archive", "scopes": "keys:write"})
    assert no_key.status_code == (403 if gives == 403 else 422)


# --- the audit ------------------------------------------------------------------------------------


async def test_the_audit(sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock") -> None:
    """Logins, failures and what was done to whom are there, with who and from where; it can be filtered."""
    await somebody(sqlite_db, Role.OWNER, clock.now)
    await log_in(page, "owner@example.com", "wrong")
    await log_in(page, "owner@example.com")
    invited = await page.post("/people/invite", data={"email": "new@x.org", "role": "viewer"})
    assert re.search(r"https://trunkline.example/welcome/[\w-]{43}", invited.text)
    bad = await page.post("/people/invite", data={"email": "no address", "role": "viewer"})
    assert bad.status_code == 422
    text = (await page.get("/audit")).text
    for words in ("Failed to log in", "Logged in", "Invited somebody", "203.0.113.7", "new@x.org"):
        assert words in text
    only = (await page.get("/audit?action=user.invited")).text
    assert "Failed to log in" not in only
    strange = await page.get("/audit", params={"before": "'; drop table audit; --"})
    assert strange.status_code == 200


async def test_the_pages_of_people_hold_any_text(
    sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """A name of markup is shown as it was typed."""
    user = await somebody(sqlite_db, Role.OWNER, clock.now)
    async with sqlite_db.work() as session:
        (await queries.user(session, user.id)).name = "<script>alert(1)</script>"
    await log_in(page, "owner@example.com")
    for path in ("/people", "/account", "/audit"):
        text = (await page.get(path)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


def test_the_pages_have_no_other_scopes(app: FastAPI) -> None:
    """Each scope a page asks for is one that a role can have."""
    known: set[Any] = set().union(*MAY.values())
    assert {scope for _, _, scope in doors(app) if scope} <= known


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36", "Chrome on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 15.0; rv:140) Gecko Firefox/140.0", "Firefox on Mac"),
        (None, "Unknown browser"),
    ],
)  # fmt: skip
def test_where_one_is_logged_in(agent: str | None, says: str) -> None:
    """A browser is named as its owner would name it."""
    assert browser_name(agent) == says
