"""The list of calls: filters and search, the same in the API and on the page; views; what cannot be."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI

from trunkline.access import queries as access_queries
from trunkline.access import service as access
from trunkline.calls import review, search, service, views
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.review import By, Review
from trunkline.crm import service as crm
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.dashboard.list_pages import USUAL
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse

S = timedelta(seconds=1)
DAY = timedelta(days=1)
MARIA = By("usr_1", "Maria")


@pytest.fixture
def app(db: Database, tmp_path: Path, now: datetime) -> FastAPI:
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    return create_app(db, blobs, WebOptions(login=False), lambda: now)


@pytest.fixture
async def api(app: FastAPI, db: Database, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    async with db.work() as session:
        _, token = await access.add_key(session, name="crm", scopes=["calls:read"], now=now)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://trunkline",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


@pytest.fixture
async def page(app: FastAPI, browse: "Browse") -> AsyncIterator[httpx.AsyncClient]:
    async with browse(app, catches=True) as client:
        yield client


@pytest.fixture
async def calls(db: Database, make: "Make", now: datetime) -> dict[str, str]:
    """Four calls, the newest last: won, sales, failed, ringing. Name → id."""
    made = {}

    async def talk(name: str, at: datetime, said: str, seconds: int, **facts: Any) -> str:
        call = await make.call(session, room=name, channel="sip", now=at, **facts)
        lease = await service.take_lease(session, call.id, now=at)
        await service.answer(session, lease, now=at)
        await service.save_turn(
            session, lease, turn_id=None, role="user", text=said, started_ms=83_000,
            ended_ms=84_000, now=at,
        )  # fmt: skip
        if name == "failed":
            run = await service.start_tool(
                session, lease, name="move_deal", arguments={}, writes=True, turn_id=None,
                offset_ms=None, now=at,
            )  # fmt: skip
            await service.fail_tool(session, lease, run.id, error="refused", now=at)
        reason = EndReason.TRANSFERRED if name == "sales" else EndReason.CALLER_HANGUP
        await service.end(session, call.id, reason, now=at + seconds * S)
        made[name] = call.id
        return call.id

    async with db.work() as session:
        deal = await make.deal(session)
        front = await make.profile(session)
        sales = await make.profile(session, name="Sales desk", number=None)
        won = await talk(
            "won", now - 3 * DAY, "I'd like to go ahead <b>now</b>.", 90,
            contact_id=deal.contact_id, profile_version_id=front.id,
        )  # fmt: skip
        cause = crm.Cause(source="call", call_id=won)
        await crm.move_deal(session, deal.id, "won", cause=cause, now=now)
        await review.add_tag(session, won, "vip", by=MARIA, now=now)
        await talk(
            "sales", now - 2 * DAY, "A refund, please.", 30, from_number="+493012345678",
            profile_version_id=sales.id,
        )  # fmt: skip
        failed = await talk("failed", now - DAY, "Refund, please. Please go ahead.", 600)
        await review.set_review(session, failed, Review.NEEDED, by=MARIA, now=now)
        made["ringing"] = (
            await make.call(session, room="r", direction="outbound", channel="test", now=now)
        ).id
    return made


CASES: list[tuple[dict[str, str], str]] = [
    ({}, "ringing failed sales won"),
    ({"q": "refund"}, "failed sales"),
    ({"q": '"go ahead"'}, "failed won"),
    ({"q": "refund -ahead", "answered": "yes"}, "sales"),
    ({"number": "+49 30 12345678"}, "sales"),
    ({"number": "(202) 555-0100"}, "ringing failed sales won"),  # as people here write ours
    ({"profile": "Sales desk"}, "sales"),
    ({"profile": "Front desk"}, "won"),
    ({"direction": "outbound"}, "ringing"),
    ({"end_reason": "transferred"}, "sales"),
    ({"transferred": "yes"}, "sales"),
    ({"transferred": "no"}, "ringing failed won"),
    ({"answered": "no"}, "ringing"),
    ({"min_duration": "60"}, "failed won"),
    ({"max_duration": "60"}, "sales"),
    ({"min_duration": "60", "max_duration": "100"}, "won"),
    ({"tag": "VIP"}, "won"),
    ({"tag": "nobody's"}, ""),
    ({"crm_failed": "yes"}, "failed"),
    ({"review": "needed"}, "failed"),
    ({"tests": "hide"}, "failed sales won"),
    ({"from": "2026-01-13", "to": "2026-01-14"}, "failed sales"),
    ({"from": "2026-01-14T09:30:00Z"}, "ringing failed"),
    ({"to": "2026-01-13T09:30:00+00:00"}, "won"),
    # Half past nine in London is half past seven in the evening in Brisbane.
    ({"from": "2026-01-15T19:30", "timezone": "Australia/Brisbane"}, "ringing"),
    ({"q": "refund", "direction": "inbound", "crm_failed": "no"}, "sales"),
    ({"contact": "con_of_nobody"}, ""),
]


@pytest.mark.parametrize(("asked", "names"), CASES)
async def test_a_filter(
    api: httpx.AsyncClient,
    page: httpx.AsyncClient,
    calls: dict[str, str],
    asked: dict[str, str],
    names: str,
) -> None:
    """Each filter leaves the same calls in the API and on the page, alone and with others."""
    expected = [calls[name] for name in names.split()]
    answer = await api.get("/v1/calls", params=asked)
    assert answer.status_code == 200, answer.text
    assert [call["id"] for call in answer.json()["data"]] == expected
    shown = await page.get("/calls", params=asked)
    assert shown.status_code == 200
    assert re.findall(r'<a id="(call_\w+)"', shown.text) == expected
    one_by_one: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(6):
        part = (await api.get("/v1/calls", params={**asked, **cursor, "limit": "1"})).json()
        one_by_one += [call["id"] for call in part["data"]]
        if part["next_cursor"] is None:
            break
        cursor = {"cursor": part["next_cursor"]}
    assert one_by_one == expected


async def test_the_contact(api: httpx.AsyncClient, calls: dict[str, str]) -> None:
    """All calls of one person."""
    (won,) = (await api.get("/v1/calls", params={"tag": "vip"})).json()["data"]
    found = await api.get("/v1/calls", params={"contact": won["contact"]["id"]})
    assert [call["id"] for call in found.json()["data"]] == [calls["won"]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"direction": "sideways"}, "use one of: inbound, outbound"),
        ({"end_reason": "boredom"}, "use one of: caller_hangup"),
        ({"answered": "perhaps"}, "neither yes nor no"),
        ({"from": "yesterday"}, "write 2026-01-15"),
        ({"to": "9999-12-31"}, "is no time"),
        ({"from": "2026-02-30"}, "is no time"),
        ({"min_duration": "1.5"}, "whole seconds"),
        ({"max_duration": "-1"}, "whole seconds"),
        ({"max_duration": "9" * 30}, "whole seconds"),
        ({"number": "12"}, "umber: "),
        ({"timezone": "Mars/Olympus"}, "write one like"),
        ({"timezone": "../etc/passwd"}, "write one like"),
        ({"review": "maybe"}, "use one of: needed, done"),
        ({"tag": "x" * 200}, "40 characters"),
        ({"contact": "x" * 200}, "no id"),
        ({"q": "(refund"}, "not closed"),
        ({"q": "AND OR NOT " * 300}, "1000 characters"),
        ({"cursor": "zzz"}, "cursor"),
    ],
)
async def test_what_cannot_be_asked(
    api: httpx.AsyncClient,
    page: httpx.AsyncClient,
    calls: dict[str, str],
    asked: dict[str, str],
    says: str,
) -> None:
    """The API answers with a problem; the page says the same above the filters, which stay as they were."""
    answer = await api.get("/v1/calls", params=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert says in answer.json()["detail"]
    shown = await page.get("/calls", params=asked)
    assert shown.status_code == 422
    assert says in shown.text
    assert 'role="search"' in shown.text


@pytest.mark.parametrize(
    "asked",
    [
        {"q": "\x00"}, {"q": "x" * 10_000}, {"tag": "\x00"}, {"contact": "\x00"}, {"number": "\x00"},
        {"profile": "\x00"}, {"profile": "nobody"}, {"limit": "1000000000"}, {"limit": "0"},
        {"cursor": "\x00"}, {"from": "\x00" * 10}, {"end_reason": "\x00"}, {"tests": "\x00"},
    ],
)  # fmt: skip
async def test_nothing_breaks_the_list(
    api: httpx.AsyncClient, page: httpx.AsyncClient, asked: dict[str, str]
) -> None:
    """Strange input is answered, never with a 5xx."""
    assert (await api.get("/v1/calls", params=asked)).status_code in (200, 404, 422)
    assert (await page.get("/calls", params=asked)).status_code in (200, 404, 422)


async def test_a_snippet_opens_at_its_second(
    page: httpx.AsyncClient, calls: dict[str, str]
) -> None:
    """A search shows who said it and when, the words marked and nothing taken for markup."""
    html = (await page.get("/calls", params={"q": "ahead now"})).text
    assert f"/calls/{calls['won']}?q=ahead+now&amp;t=83" in html
    assert "<mark>ahead</mark> &lt;b&gt;<mark>now</mark>&lt;/b&gt;" in html
    assert "Caller 1:23" in html


async def test_tiles_obey_the_filters(page: httpx.AsyncClient, calls: dict[str, str]) -> None:
    """Calls, answered, median, failed writes and moved deals are of the calls that are listed."""

    async def tiles(**asked: str) -> list[str]:
        html = (await page.get("/calls", params=asked)).text
        found = re.findall(r"<dd>(?:<a [^>]*>)?([^<]*)", html.split('<dl class="tiles"')[1])
        return [one.strip() for one in found[:5]]

    assert await tiles() == ["4", "3", "1 m 30 s", "1", "1"]
    assert await tiles(tag="vip") == ["1", "1", "1 m 30 s", "0", "1"]
    assert await tiles(q="refund") == ["2", "2", "30 s", "1", "0"]
    assert await tiles(q="nothing") == ["0", "0", "–", "0", "0"]


async def test_a_search_that_stops_says_so(
    api: httpx.AsyncClient,
    page: httpx.AsyncClient,
    calls: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search that looked at many calls in vain says how far back it went, and goes on from there."""
    monkeypatch.setattr(search, "FEW", 0)
    monkeypatch.setattr(search, "WALK", 2)
    first = (await api.get("/v1/calls", params={"q": "vip OR ahead -refund"})).json()
    assert (first["data"], first["searched_back_to"][:10]) == ([], "2026-01-14")
    rest = await api.get(
        "/v1/calls", params={"q": "vip OR ahead -refund", "cursor": first["next_cursor"]}
    )
    assert [call["id"] for call in rest.json()["data"]] == [calls["won"]]
    assert "Search further back" in (await page.get("/calls?q=ahead -refund")).text


async def test_columns(page: httpx.AsyncClient, calls: dict[str, str]) -> None:
    """The columns are those of the address."""
    html = (await page.get("/calls?columns=tags&columns=review&columns=nonsense")).text
    heads = re.findall(r'<th role="columnheader"[^>]*>([^<]*)', html)
    assert heads == ["Caller", "Review", "Tags"]
    assert '<span class="tag">vip</span>' in html


async def test_columns_are_kept(page: httpx.AsyncClient, calls: dict[str, str]) -> None:
    """Who applies other columns finds them from then on, without them in the address, which still wins; the
    usual ones end that, and what somebody else chose in the same browser does not count."""

    async def heads(path: str) -> list[str]:
        html = (await page.get(path)).text
        return re.findall(r'<th role="columnheader"[^>]*>([^<]*)', html)

    usual = await heads("/calls")
    kept = await page.get("/calls?tag=vip&number=&columns=tags&columns=turns&keep=columns")
    assert (kept.status_code, kept.headers["location"]) == (303, "/calls?tag=vip")
    assert "HttpOnly" in kept.headers["set-cookie"]
    assert await heads("/calls") == ["Caller", "Turns", "Tags"]
    assert await heads("/calls?columns=review") == ["Caller", "Review"]
    html = (await page.get("/calls?tag=vip")).text
    assert 'name="query" value="tag=vip&amp;columns=turns&amp;columns=tags"' in html  # of a view
    theirs = page.cookies["columns"].replace(page.cookies["columns"].partition(":")[0], "usr_else")
    assert await heads("/calls") != usual
    page.cookies.clear()
    page.cookies.set("columns", theirs)
    assert await heads("/calls") == usual
    await page.get("/calls?columns=tags&keep=columns")
    given = "".join(f"&columns={name}" for name in USUAL)
    ended = await page.get(f"/calls?keep=columns{given}")
    assert 'columns="";' in ended.headers["set-cookie"]


async def test_views(page: httpx.AsyncClient, calls: dict[str, str]) -> None:
    """A view keeps the filters under a name; the same name replaces it; it can be taken back."""
    for query in ("tag=vip", "review=needed"):
        form = {"name": "My <view>", "query": query, "shared": "yes"}
        saved = await page.post("/calls/views", data=form)
        assert (saved.status_code, saved.headers["location"]) == (303, f"/calls?{query}")
    html = (await page.get("/calls?review=needed")).text
    assert html.count("My &lt;view&gt;</a>") == 1
    assert 'href="/calls?review=needed" aria-current="page"' in html
    for bad in ({"name": ""}, {"name": "x" * 61}, {"name": "x", "query": "q=" + "x" * 3000}):
        assert (await page.post("/calls/views", data=bad)).status_code == 422
    (path,) = re.findall(r'action="(/calls/views/view_\w+/remove)"', html)
    assert (await page.post(path)).status_code == 303
    assert (await page.post(path)).status_code == 404
    assert "My &lt;view" not in (await page.get("/calls")).text


async def test_a_view_of_somebody_who_is_gone(
    page: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Whoever may share views can remove one that everybody sees; what others keep for themselves is
    neither shown nor removed."""
    maria = By("usr_gone", "Maria <Santos>")
    async with db.work() as session:
        await views.save(session, name="Left", query="tag=a", shared=True, by=maria, now=now)
        own = await views.save(session, name="Own", query="", shared=False, by=maria, now=now)
    html = (await page.get("/calls")).text
    assert "Remove the view of Maria &lt;Santos&gt; for everybody" in html
    (path,) = re.findall(r'action="(/calls/views/view_\w+/remove)"', html)
    assert (await page.post(path)).status_code == 303
    assert (await page.post(f"/calls/views/{own.id}/remove")).status_code == 404
    assert "Left</a>" not in (await page.get("/calls")).text
    async with db.look() as session:
        (line,) = await access_queries.audit(session, limit=10)
    assert (line.action, line.details) == (
        "view.removed",
        {"name": "Left", "owner": "Maria <Santos>"},
    )


async def test_the_call_page_goes_on_in_the_filtered_list(
    page: httpx.AsyncClient, calls: dict[str, str]
) -> None:
    """Next and previous on a call's page are those of the list it was opened from."""
    html = (await page.get(f"/calls/{calls['failed']}?q=refund")).text
    assert f'href="/calls/{calls["sales"]}?q=refund"' in html
    assert calls["won"] not in html
    assert calls["ringing"] not in html
    lost = await page.get(f"/calls/{calls['failed']}?q=(")
    assert lost.status_code == 200
