"""Logging in through an OpenID Connect provider: who gets in, who does not, and what they are told."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from joserfc.jwk import RSAKey

from trunkline.access import logins, oidc, queries
from trunkline.access import service as access
from trunkline.access.models import User
from trunkline.access.options import SignInOptions
from trunkline.access.roles import Role
from trunkline.errors import Misconfigured
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.settings import Settings
from trunkline.web.app import create_app
from trunkline.web.dashboard.sign_in_pages import BROWSER
from trunkline.web.options import WebOptions
from trunkline.web.people import COOKIE

if TYPE_CHECKING:
    from tests.wire.conftest import Clock, IdentityProvider, ServeIdentity

SECRET = "s3cret: with / all + of % it"
CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
"""What a browser says of the way back from another site."""
S = timedelta(seconds=1)


@pytest.fixture
async def provider(
    serve_identity: "ServeIdentity", clock: "Clock"
) -> AsyncIterator["IdentityProvider"]:
    async with serve_identity(clock) as server:
        yield server


Build = Callable[..., FastAPI]


@pytest.fixture
def build(
    sqlite_db: Database, tmp_path: Path, clock: "Clock", provider: "IdentityProvider"
) -> Build:
    """The app, with these of the provider's settings."""

    def make(*, passwords: bool = True, **given: Any) -> FastAPI:
        known = {
            "issuer": provider.issuer,
            "client_id": "trunkline",
            "client_secret": SECRET,
            "label": "Acme",
        }
        options = WebOptions(passwords=passwords, sign_in=SignInOptions(**known | given))
        return create_app(sqlite_db, open_blobs(BlobOptions(str(tmp_path))), options, clock)

    return make


@pytest.fixture
async def app(build: Build, sqlite_db: Database, clock: "Clock") -> FastAPI:
    """With somebody who is owner already, so that others may come."""
    await account(sqlite_db, Role.OWNER, "owner@example.com", clock.now)
    return build()


async def account(db: Database, role: Role, email: str, now: datetime) -> User:
    async with db.work() as session:
        _, token = await access.invite(session, role=role, email=email, by=None, now=now)
        return await access.accept(
            session, token, email=email, name="Somebody", password_hash=None, now=now
        )


def browser(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(
        app=app, client=("203.0.113.7", 40_000), raise_app_exceptions=False
    )
    return httpx.AsyncClient(
        transport=transport,
        base_url="https://trunkline.example",
        headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
    )


@pytest.fixture
async def page(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(app) as client:
        yield client


async def to_provider(page: httpx.AsyncClient, next: str = "/calls") -> str:
    """The provider's address that the button leads to."""
    away = await page.get("/login/oidc", params={"next": next})
    assert away.status_code == 303, away.text
    return away.headers["location"]


async def through(url: str) -> str:
    """The way back to which the provider sends the browser."""
    async with httpx.AsyncClient() as outside:
        return (await outside.get(url)).headers["location"]


async def sign_in(page: httpx.AsyncClient, next: str = "/calls") -> httpx.Response:
    return await page.get(await through(await to_provider(page, next)), headers=CROSS)


def fault(answer: httpx.Response) -> str:
    """What the page says went wrong."""
    found = re.search(r'class="note bad"[^>]*>(.*?)</', answer.text, re.S)
    assert found, answer.text
    return found[1].strip()


async def reasons(db: Database) -> list[str]:
    async with db.look() as session:
        rows = await queries.audit(session, action="login.failed", limit=50)
    return [row.details["reason"] for row in rows]


# --- who gets in ----------------------------------------------------------------------------------


async def test_somebody_new_comes_in(
    sqlite_db: Database, page: httpx.AsyncClient, provider: "IdentityProvider"
) -> None:
    """The button leads to the provider with PKCE, state and nonce; back again one is logged in as a viewer,
    on the page one wanted, in a login like any other; it can be ended."""
    form = await page.get("/login?next=/calls")
    assert (
        '<a class="button primary" href="/login/oidc?next=/calls">Log in with Acme</a>' in form.text
    )
    url = await to_provider(page)
    asked = {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()}
    assert asked["redirect_uri"] == "https://trunkline.example/login/oidc/callback"
    assert asked["client_id"] == "trunkline"
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    back = await page.get(await through(url), headers=CROSS)
    assert (back.status_code, back.headers["location"]) == (303, "/calls")
    for flag in (f"{COOKIE}=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
        assert flag in back.headers["set-cookie"]
    assert "Dana Whitfield" in (await page.get("/account")).text
    assert (await page.get("/people")).status_code == 403
    async with sqlite_db.look() as session:
        user = await queries.user_by_email(session, "dana@example.com")
        done = [row.action for row in await queries.audit(session, limit=9)]
    assert user is not None
    assert (user.role, user.oidc_subject, user.password_hash) == ("viewer", "u-1", None)
    assert done == ["login.opened", "user.joined"]
    assert (await page.post("/logout")).headers["location"] == "/login"
    assert (await page.get("/calls")).status_code == 303


async def test_an_account_is_linked_by_its_address_once(
    sqlite_db: Database, app: FastAPI, provider: "IdentityProvider", clock: "Clock"
) -> None:
    """Whoever has an account keeps it with its role; later the subject counts, not the address, and somebody
    else who was given that address at the provider is refused until an owner detaches it."""
    had = await account(sqlite_db, Role.MANAGER, "dana@example.com", clock.now)
    async with browser(app) as page:
        assert (await sign_in(page)).status_code == 303
    provider.who["email"] = "dana.whitfield@example.com"
    async with browser(app) as page:
        assert (await sign_in(page)).status_code == 303
    async with sqlite_db.look() as session:
        assert len(await queries.users(session)) == 2
        assert (await queries.user(session, had.id)).role == "manager"
    provider.who |= {"sub": "u-2", "email": "dana@example.com"}
    async with browser(app) as page:
        answer = await sign_in(page)
    assert answer.status_code == 403
    assert "belongs to another person at Acme; ask an owner to detach it" in fault(answer)
    async with sqlite_db.work() as session:
        owner = await queries.user_by_email(session, "owner@example.com")
        assert owner is not None
        _, token = await logins.open_login(
            session, owner, method="link", address=None, browser=None, now=clock.now
        )
    own = {"Cookie": f"{COOKIE}={token}"}
    async with browser(app) as page:
        listed = (await page.get("/people", headers=own)).text
        assert "Logs in with Acme" in listed
        assert "Has not used Acme yet" in listed
        done = await page.post(f"/people/{had.id}/detach", headers=own)
        assert done.headers["location"] == "/people?done=detached"
    async with browser(app) as page:
        assert (await sign_in(page)).status_code == 303


async def test_an_invitation_waits_for_its_address(
    sqlite_db: Database, build: Build, app: FastAPI, clock: "Clock"
) -> None:
    """Where only the invited may come, others are told so, and the invited get the role they were given."""
    only_invited = build(default_role=None)
    async with browser(only_invited) as page:
        assert "nobody has invited dana@example.com yet" in fault(await sign_in(page)).lower()
        async with sqlite_db.work() as session:
            _, token = await access.invite(
                session, role="integrator", email="dana@example.com", by=None, now=clock.now
            )
        assert (await sign_in(page)).status_code == 303
        assert (await page.get(f"/welcome/{token}")).status_code == 404  # used up
    async with sqlite_db.look() as session:
        user = await queries.user_by_email(session, "dana@example.com")
        assert user is not None
        assert user.role == "integrator"


async def test_a_claim_decides_the_role_each_time(
    sqlite_db: Database, build: Build, app: FastAPI, provider: "IdentityProvider", clock: "Clock"
) -> None:
    """The highest of the groups' roles counts; it follows the provider up and down, ends other logins when it
    changes, and leaves the last owner owner."""
    by_group = build(
        role_claim="realm_access.roles",
        roles=(("support", Role.MANAGER), ("admins", Role.OWNER)),
        default_role=None,
    )
    async with browser(by_group) as page, browser(by_group) as again:
        answer = await sign_in(page)
        assert (answer.status_code, "no role here" in fault(answer)) == (403, True)
        provider.who["realm_access"] = {"roles": ["support", "other", 7]}
        assert (await sign_in(page)).status_code == 303
        provider.who["realm_access"] = {"roles": ["support", "admins"]}
        assert (await sign_in(again)).status_code == 303
        assert (await again.get("/people")).status_code == 200
        assert (await page.get("/calls")).status_code == 303  # the login with the old role is over
        provider.who["realm_access"] = {"roles": ["support"]}
        assert (await sign_in(again)).status_code == 303
        assert (await again.get("/people")).status_code == 403
        provider.who |= {"sub": "u-9", "email": "owner@example.com"}
        assert (await sign_in(again)).status_code == 303
        assert (await again.get("/people")).status_code == 200


async def test_nobody_comes_before_the_owner(
    sqlite_db: Database, build: Build, clock: "Clock"
) -> None:
    """With no owner yet, the provider's people are told how there can be one."""
    async with browser(build()) as page:
        assert "trunkline user add --first" in fault(await sign_in(page))
    async with sqlite_db.look() as session:
        assert not await queries.users(session)


async def test_what_the_id_token_leaves_out_is_asked_for(
    page: httpx.AsyncClient, provider: "IdentityProvider"
) -> None:
    """A provider that keeps the address to its userinfo endpoint is asked there."""
    provider.thin = True
    assert (await sign_in(page)).status_code == 303
    assert provider.asked[-1] == "/userinfo"


async def test_the_secret_may_go_in_the_form(
    page: httpx.AsyncClient, provider: "IdentityProvider"
) -> None:
    """A provider that takes the client's secret in the form gets it there; without a word, in the header."""
    provider.offer = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert (await sign_in(page)).status_code == 303


async def test_keys_are_rotated(page: httpx.AsyncClient, provider: "IdentityProvider") -> None:
    """A key that was not known yet is fetched, once; discovery is not asked again."""
    assert (await sign_in(page)).status_code == 303
    provider.rotate()
    assert (await sign_in(page)).status_code == 303
    assert (await sign_in(page)).status_code == 303
    assert provider.asked.count("/keys") == 2
    assert provider.asked.count("/.well-known/openid-configuration") == 1


# --- who does not ---------------------------------------------------------------------------------


def _set(name: str, value: Any) -> Callable[["IdentityProvider"], None]:
    return lambda provider: setattr(provider, name, value)


AT = 1_768_469_400
"""The tests' moment in seconds."""


@pytest.mark.parametrize(
    ("break_it", "status", "reason", "says"),
    [
        (_set("faults", {"nonce": "another"}), 502, "token", "not to be trusted"),
        (_set("faults", {"nonce": None}), 502, "token", "not to be trusted"),
        (_set("faults", {"aud": "another-client"}), 502, "token", "not to be trusted"),
        (
            _set("faults", {"aud": ["trunkline", "x"], "azp": "x"}),
            502,
            "token",
            "not to be trusted",
        ),
        (_set("faults", {"iss": "https://evil.example"}), 502, "token", "not to be trusted"),
        (_set("faults", {"sub": ""}), 502, "token", "not to be trusted"),
        (_set("faults", {"at_hash": "AAAA"}), 502, "token", "not to be trusted"),
        (_set("faults", {"exp": AT - 61}), 502, "clock", "set its clock by NTP"),
        (_set("faults", {"iat": AT + 61}), 502, "clock", "set its clock by NTP"),
        (_set("algorithm", "none"), 502, "token", "not to be trusted"),
        (_set("algorithm", "HS256"), 502, "token", "not to be trusted"),
        (_set("signs_with", RSAKey.generate_key(2048, {"kid": "first"})), 502, "token", "trusted"),
        (_set("signs_with", RSAKey.generate_key(2048, {"kid": "other"})), 502, "token", "trusted"),
        (_set("refuses", "access_denied"), 403, "denied", "begin again if you want to"),
        (_set("refuses", "server_error"), 502, "refused", "did not let you through (server_error)"),
        (_set("refuses", '<script>"'), 502, "refused", "did not let you through (no code)"),
        (_set("token_status", 503), 502, "unreachable", "does not answer"),
        (_set("faults", {"email_verified": False}), 403, "email_not_verified", "verify it there"),
        (_set("faults", {"email": None}), 403, "no_email", "claim email"),
        (_set("faults", {"email": "dana@other.org"}), 403, "domain", "account at example.com"),
        (_set("faults", {"email": "a@example.com@x.org"}), 403, "no_email", "claim email"),
    ],
)
async def test_who_is_not_let_in(
    sqlite_db: Database,
    app: FastAPI,
    build: Build,
    provider: "IdentityProvider",
    break_it: Callable[["IdentityProvider"], None],
    status: int,
    reason: str,
    says: str,
) -> None:
    """A forged, stale or unwelcome answer logs nobody in, makes no account, says what to do, is audited."""
    break_it(provider)
    async with browser(build(domains=("example.com",))) as page:
        answer = await sign_in(page)
        assert answer.status_code == status
        assert says in fault(answer)
        assert COOKIE not in page.cookies
    assert await reasons(sqlite_db) == [reason]
    async with sqlite_db.look() as session:
        assert len(await queries.users(session)) == 1


async def test_whoever_was_shut_out_stays_out(
    sqlite_db: Database, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """The provider's word does not open an account that an owner has shut."""
    user = await account(sqlite_db, Role.VIEWER, "dana@example.com", clock.now)
    async with sqlite_db.work() as session:
        await access.disable(session, user.id, now=clock.now)
    answer = await sign_in(page)
    assert (answer.status_code, "shut out" in fault(answer)) == (403, True)


async def test_a_wrong_secret(sqlite_db: Database, app: FastAPI, build: Build) -> None:
    """It is told as what it is, and the secret is nowhere in the page."""
    async with browser(build(client_secret="not it at all")) as page:
        answer = await sign_in(page)
    assert (answer.status_code, "client id and secret" in fault(answer)) == (502, True)
    assert "not it at all" not in answer.text


async def test_a_provider_that_is_down_or_another(
    sqlite_db: Database, app: FastAPI, build: Build, provider: "IdentityProvider"
) -> None:
    """Before anybody is sent away: a provider that does not answer, or calls itself otherwise."""
    async with browser(build(issuer="http://127.0.0.1:9")) as page:
        down = await page.get("/login/oidc")
    assert (down.status_code, "does not answer" in fault(down)) == (502, True)
    async with browser(build(issuer=provider.issuer + "/")) as page:
        other = await page.get("/login/oidc")
    assert (other.status_code, "not set up right" in fault(other)) == (502, True)
    assert await reasons(sqlite_db) == ["issuer", "unreachable"]


# --- the attempt ----------------------------------------------------------------------------------


async def test_an_attempt_is_of_one_browser_and_good_once(
    sqlite_db: Database, app: FastAPI, page: httpx.AsyncClient, clock: "Clock"
) -> None:
    """A way back that another browser began, that was used, whose state is off, or that took longer than ten
    minutes logs nobody in; two tabs of one browser may be on their way at once."""
    back = await through(await to_provider(page))
    async with browser(app) as victim:
        await to_provider(victim)
        assert (await victim.get(back, headers=CROSS)).status_code == 400  # login CSRF
        assert COOKIE not in victim.cookies
    tampered = re.sub(r"state=[^&]+", "state=" + "x" * 43, back)
    assert (await page.get(tampered, headers=CROSS)).status_code == 400
    other = await through(await to_provider(page))
    assert (await page.get(back, headers=CROSS)).status_code == 303
    assert (await page.get(other, headers=CROSS)).status_code == 303
    page.cookies.delete(COOKIE)
    assert (await page.get(back, headers=CROSS)).status_code == 400  # replayed
    late = await through(await to_provider(page))
    clock.now += oidc.LASTS
    answer = await page.get(late, headers=CROSS)
    assert (answer.status_code, "begin again" in fault(answer)) == (400, True)
    assert set(await reasons(sqlite_db)) == {"state"}


async def test_a_code_is_good_once_at_the_provider(
    sqlite_db: Database, page: httpx.AsyncClient
) -> None:
    """A code that was spent elsewhere, put into an attempt of one's own, is refused there."""
    first = await through(await to_provider(page))
    assert (await page.get(first, headers=CROSS)).status_code == 303
    page.cookies.delete(COOKIE)
    code = parse_qs(urlsplit(first).query)["code"][0]
    second = await through(await to_provider(page))
    answer = await page.get(re.sub(r"code=[^&]+", f"code={code}", second), headers=CROSS)
    assert (answer.status_code, "used already" in fault(answer)) == (401, True)


async def test_an_answer_of_another_provider(page: httpx.AsyncClient) -> None:
    """Who sends the browser back must be whom it was sent to (RFC 9207)."""
    back = await through(await to_provider(page))
    answer = await page.get(re.sub(r"iss=[^&]+", "iss=https://evil.example", back), headers=CROSS)
    assert answer.status_code == 502


@pytest.mark.parametrize("next", ["https://evil.example", "//evil.example", "/\\evil.example"])
async def test_the_way_back_is_ours(page: httpx.AsyncClient, next: str) -> None:
    """No link to the log-in leads to another site in the end."""
    assert (await sign_in(page, next)).headers["location"] == "/"


async def test_only_the_callback_is_taken_from_another_site(page: httpx.AsyncClient) -> None:
    """Neither a form of another site logs out or in, nor can the callback be posted to."""
    assert (await sign_in(page)).status_code == 303
    assert (await page.post("/logout", headers=CROSS)).status_code == 403
    assert (await page.post("/login/oidc/callback")).status_code == 405
    assert (await page.get("/calls")).status_code == 200


async def test_attempts_from_one_address_are_bounded(
    page: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fills the table: who begins too often waits."""
    monkeypatch.setattr(oidc, "PER_ADDRESS", 2)
    await to_provider(page)
    await to_provider(page)
    answer = await page.get("/login/oidc")
    assert (answer.status_code, "wait 10 minutes" in fault(answer)) == (429, True)


async def test_the_login_before_ends(app: FastAPI, page: httpx.AsyncClient) -> None:
    """Logging in anew ends what this browser had: a stolen older cookie opens nothing."""
    await sign_in(page)
    stolen = {"Cookie": f"{COOKIE}={page.cookies[COOKIE]}"}
    await sign_in(page)
    async with browser(app) as thief:
        assert (await thief.get("/calls", headers=stolen)).status_code == 303
    assert BROWSER in page.cookies


# --- without passwords ----------------------------------------------------------------------------


async def test_passwords_can_be_switched_off(
    sqlite_db: Database, build: Build, clock: "Clock"
) -> None:
    """Then no password is asked for or taken; the first owner's link and an owner's one-time link still open,
    everybody else's leads to the provider."""
    app = build(passwords=False)
    async with sqlite_db.work() as session:
        token = await access.first_owner(session, now=clock.now)
    async with browser(app) as page:
        welcome = await page.get(f"/welcome/{token}")
        assert 'type="password"' not in welcome.text
        joined = {"email": "owner@example.com", "name": "Olive"}
        assert (await page.post(f"/welcome/{token}", data=joined)).status_code == 303
        assert (await page.get("/people")).status_code == 200
        account_page = (await page.get("/account")).text
        assert 'type="password"' not in account_page
        assert "nobody has a password here" in account_page
        refused = await page.post("/account/password", data={"old": "x", "new": "y"})
        assert refused.status_code == 403
    async with browser(app) as page:
        form = await page.get("/login")
        assert 'type="password"' not in form.text
        assert "Log in with Acme" in form.text
        guess = await page.post("/login", data={"email": "owner@example.com", "password": "x"})
        assert (guess.status_code, "by password" in fault(guess)) == (403, True)
        async with sqlite_db.work() as session:
            links = {
                role: (
                    await access.invite(
                        session, role=role, email=f"{role}@example.com", by=None, now=clock.now
                    )
                )[1]
                for role in ("owner", "viewer")
            }
        viewer = await page.get(f"/welcome/{links['viewer']}")
        assert "your role waits for you" in viewer.text
        assert (
            await page.post(f"/welcome/{links['viewer']}", data={"name": "V"})
        ).status_code == 422
        assert (await page.post(f"/welcome/{links['owner']}")).status_code == 303
        assert (await page.get("/people")).status_code == 200
        assert (await page.post(f"/welcome/{links['owner']}")).status_code == 404  # once


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"trunkline_login": "sso"}, "nobody could log in"),
        ({"trunkline_oidc_issuer": "https://a.example"}, "TRUNKLINE_OIDC_CLIENT_SECRET"),
        ({"trunkline_oidc_role_claim": "groups"}, "both"),
        ({"trunkline_oidc_domains": "dana@example.com"}, "no domain"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], says: str) -> None:
    """What is missing or contradicts itself is said at start, with its names."""
    with pytest.raises(Misconfigured, match=says):
        Settings.load(env_file=None, **given).sign_in()


def test_settings_of_a_provider() -> None:
    """All settings lead to one slice, which does not show its secret."""
    options = Settings.load(
        env_file=None,
        trunkline_oidc_issuer="https://a.example",
        trunkline_oidc_client_id="id",
        trunkline_oidc_client_secret="hush",
        trunkline_oidc_domains="Example.com, @b.example",
        trunkline_oidc_default_role="none",
        trunkline_oidc_role_claim="groups",
        trunkline_oidc_roles={"ops": "manager"},
    ).sign_in()
    assert options is not None
    assert (options.domains, options.default_role) == (("example.com", "b.example"), None)
    assert options.roles == (("ops", Role.MANAGER),)
    assert "hush" not in repr(options)
