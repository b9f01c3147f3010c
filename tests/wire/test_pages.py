"""The pages as a browser without scripts meets them, and who may see them."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import event

from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Call
from trunkline.calls.service import Lease
from trunkline.crm import service as crm
from trunkline.kit import phone
from trunkline.kit.audio import Reply
from trunkline.kit.blobs import Blobs
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.outbox.publish import publish
from trunkline.web.app import create_app
from trunkline.web.auth import is_loopback_address, is_loopback_name
from trunkline.web.dashboard import format as fmt
from trunkline.web.dashboard import render, waveform, words
from trunkline.web.errors import EXPLAINED
from trunkline.web.options import WebOptions
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.options import EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make

MS = timedelta(milliseconds=1)
HERE = ("127.0.0.1", 50_000)
ENDPOINTS = EndpointOptions(keys=(new_key(),))


def browser(
    db: Database,
    blobs: Blobs,
    now: datetime,
    *,
    address: tuple[str, int] | None = HERE,
    base_url: str = "http://127.0.0.1:8000",
    options: WebOptions | None = None,
) -> httpx.AsyncClient:
    """A browser; by default on the server's own machine."""
    app = create_app(db, blobs, options or WebOptions(login=False), clock=lambda: now)
    transport = httpx.ASGITransport(app=app, client=address or HERE, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
    )


@pytest.fixture
async def pages(db: Database, blobs: Blobs, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(db, blobs, now) as client:
        yield client


class Text(HTMLParser):
    """What a reader gets: the text, and the ids and links that are there."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [value] if (value := found.get("id")) else []
        self.links += [value] if (value := found.get("href")) and tag == "a" else []

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def __str__(self) -> str:
        return " ".join(self.words)


async def shown(client: httpx.AsyncClient, path: str) -> Text:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Text(answer.text)


async def talk(
    db: Database, make: "Make", now: datetime, *, room: str = "room-1", **facts: Any
) -> tuple[Call, Lease]:
    """A call that was answered."""
    async with db.work() as session:
        call = await make.call(session, room=room, now=now, **facts)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
    return call, lease


async def say(
    db: Database, lease: Lease, role: str, text: str, at: int, until: int | None, now: datetime,
    **facts: Any,
) -> str:  # fmt: skip
    async with db.work() as session:
        turn = await calls.save_turn(
            session, lease, turn_id=None, role=role, text=text, started_ms=at, ended_ms=until,
            now=now, **facts,
        )  # fmt: skip
    return turn.id


# --- who may see them --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "headers", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", {}, True),
        ("127.9.9.9", "localhost:8000", {}, True),  # all of 127/8 is this machine
        ("::1", "[::1]:8000", {}, True),
        ("::ffff:127.0.0.1", "localhost", {}, True),  # IPv4 through an IPv6 socket
        ("192.168.1.20", "127.0.0.1:8000", {}, False),  # a colleague's machine
        ("::ffff:10.0.0.1", "localhost", {}, False),
        ("127.0.0.1", "evil.example:8000", {}, False),  # DNS rebinding
        ("127.0.0.1", "127.0.0.1.evil.example", {}, False),  # begins well
        ("127.0.0.1", "localhost.evil.example", {}, False),
        ("127.0.0.1", "", {}, False),  # no name at all
        ("127.0.0.1", "127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, False),  # through a proxy
        ("127.0.0.1", "127.0.0.1", {"Forwarded": "for=203.0.113.9"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/", "/calls", "/calls/call_x", "/calls/call_x/recording.wav"])
async def test_pages_answer_only_this_machine(
    sqlite_db: Database, blobs: Blobs, now: datetime, address: str, host: str,
    headers: dict[str, str], allowed: bool, path: str,
) -> None:  # fmt: skip
    """Without a login, a page is shown only to a loopback address that asks under a loopback name."""
    async with browser(sqlite_db, blobs, now, address=(address, 4711)) as client:
        answer = await client.get(path, headers={"Host": host} | headers)
    assert (answer.status_code != 403) is allowed
    if not allowed:
        assert "only on this machine" in str(Text(answer.text))
        assert "Dana" not in answer.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::1%lo", True),
        ("0.0.0.0", False),  # noqa: S104
        ("", False),
        ("x", False),
    ],
)
def test_which_addresses_are_this_machine(text: str, expected: bool) -> None:
    """Only loopback addresses; the unspecified one is every machine's."""
    assert is_loopback_address(text) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("LOCALHOST:80", True),  # names know no case
        ("localhost.", True),  # written in full
        ("app.localhost", True),  # RFC 6761: all names below it
        ("[::1]", True),
        ("localhost@evil.example", False),
        ("2130706433", False),  # 127.0.0.1 as one number: no browser sends it so
    ],
)
def test_which_names_are_this_machine(host: str, expected: bool) -> None:
    """Names that resolve to nothing but this machine."""
    assert is_loopback_name(host) is expected


async def test_without_the_dashboard_there_are_no_pages(
    sqlite_db: Database, blobs: Blobs, now: datetime
) -> None:
    """With the dashboard switched off its addresses are unknown, and errors are still explained."""
    async with browser(sqlite_db, blobs, now, options=WebOptions(dashboard=False)) as client:
        assert (await client.get("/calls")).status_code == 404
        assert (await client.get("/errors/not_found")).status_code == 200


async def test_a_page_loads_nothing_from_elsewhere(pages: httpx.AsyncClient) -> None:
    """The policy allows this server alone, no inline script or style, and no frame around the page."""
    answer = await pages.get("/calls")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    html = Text(answer.text)
    for tag, attrs in html.tags:
        assert tag != "style"
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        assert tag != "script" or attrs.get("src")
        for name in ("src", "href"):
            assert not re.match(r"[a-z]+:|//", attrs.get(name) or ""), attrs


async def test_assets_are_kept_for_ever_under_the_hash_of_their_content(
    pages: httpx.AsyncClient,
) -> None:
    """A file is kept for ever; one of another version is answered with this one's, which is not kept."""
    for name, kind in (
        ("app.css", "text/css"),
        ("page.js", "javascript"),
        ("call.js", "javascript"),
        ("head.js", "javascript"),
        ("mark.svg", "image/svg"),
    ):
        answer = await pages.get(render.asset_url(name))
        assert kind in answer.headers["content-type"]
        assert "immutable" in answer.headers["cache-control"]
        plain = await pages.get(render.asset_url(name), headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content
        older = await pages.get(f"/assets/{name.replace('.', '-00000000.')}")
        assert older.headers["cache-control"] == "no-cache"
        assert older.content == answer.content
    for name in ("nothing.js", "..%2Fpages.py", "%2e%2e/render.py", "manifest.json", "sources"):
        assert (await pages.get(f"/assets/{name}")).status_code == 404


async def test_a_first_visit_loads_little(pages: httpx.AsyncClient) -> None:
    """All scripts and styles together, whatever the page, are under 150 kB as they are sent."""
    weight = 0
    for file in render.BUNDLE.files:
        answer = await pages.get(f"/assets/{file}")
        assert answer.headers["content-encoding"] == "gzip"
        weight += int(answer.headers["content-length"])
    assert weight < 150_000


# --- the list ----------------------------------------------------------------------------------


async def test_an_empty_list_says_what_to_do(pages: httpx.AsyncClient) -> None:
    """Today says that nobody answers yet; an empty list has a sentence and a command."""
    first = (await pages.get("/")).text
    assert "nobody answers" in first
    assert "Nobody is on the line." in first
    html = str(await shown(pages, "/calls"))
    assert "No call has come in yet." in html
    assert "uv run trunkline demo" in html


async def test_a_row_says_who_when_how_long_and_how_it_ended(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """A row has the name from the CRM, numbers as people write them, duration and outcome in words."""
    async with db.work() as session:
        contact = await make.contact(session)
    call, lease = await talk(db, make, now, contact_id=contact.id)
    await say(db, lease, "agent", "Hello Dana.", 100, 900, now)
    async with db.work() as session:
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=now + 220_000 * MS)
        await make.call(session, room="room-2", from_number=None, now=now + timedelta(hours=1))
        await make.call(
            session, room="3", from_number="+493012345678", now=now + timedelta(hours=2)
        )
    html = await shown(pages, "/calls")
    text = str(html)
    assert "Dana Whitfield (202) 555-0134" in text
    assert "Caller hung up" in text
    assert "3 m 40 s" in text
    assert "15 Jan 09:30 UTC" in text
    assert "Hidden number Caller withheld it" in text
    assert "+49 30 12345678 Not in the CRM" in text  # from abroad, so not in the national form
    assert text.index("+49 30") < text.index("Hidden") < text.index("Dana")
    assert f"/calls/{call.id}" in html.links
    assert ("time", "2026-01-15T09:30:00.000Z") in [(t, a.get("datetime")) for t, a in html.tags]


async def test_older_calls_are_one_link_away(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """The cursor stands in the address: fifty calls on a page, the rest behind a link, then the end."""
    async with db.work() as session:
        made = [
            await make.call(session, room=f"room-{n}", now=now + n * timedelta(minutes=1))
            for n in range(53)
        ]
    first = await shown(pages, "/calls")
    rows = [link for link in first.links if link.startswith("/calls/call_")]
    assert rows == [f"/calls/{call.id}" for call in reversed(made[3:])]
    (older,) = [link for link in first.links if "cursor=" in link]
    second = await shown(pages, older)
    rows = [link for link in second.links if link.startswith("/calls/call_")]
    assert rows == [f"/calls/{call.id}" for call in reversed(made[:3])]
    assert not [link for link in second.links if "cursor=" in link]
    broken = await pages.get("/calls?cursor=nonsense")
    assert broken.status_code == 422
    assert "This cursor is not one of ours" in str(Text(broken.text))


@contextmanager
def counted(db: Database) -> Iterator[list[str]]:
    """The statements that go to the database meanwhile."""
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    engine = db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_the_number_of_queries_does_not_grow(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Ten times the calls, turns, tools, changes and deliveries take the same number of queries."""

    async def fill(room: str, size: int) -> str:
        async with db.work() as session:
            number = f"+1202555{2000 + size}"
            contact = await make.contact(session, phones=[number], company=room)
        call, lease = await talk(db, make, now, room=room, contact_id=contact.id)
        for n in range(size):
            turn = await say(db, lease, "user", f"Number {n}", n * 1000, n * 1000 + 500, now)
            async with db.work() as session:
                run = await calls.start_tool(
                    session, lease, name="log_activity", arguments={"n": n}, turn_id=turn,
                    offset_ms=n * 1000, now=now,
                )  # fmt: skip
                cause = crm.Cause("call", call.id, run.id, turn, n * 1000)
                await crm.log_activity(
                    session, kind="note", summary=f"Note {n}", contact_id=contact.id, cause=cause,
                    now=now,
                )  # fmt: skip
                await calls.finish_tool(session, lease, run.id, result="ok", now=now)
        return call.id

    async with db.work() as session:
        await webhooks.add_endpoint(
            session, options=ENDPOINTS, url="https://example.com/a", events=["*"], now=now
        )
    small = await fill("small", 2)
    with counted(db) as for_list_of_one:
        await shown(pages, "/calls")
    large = await fill("large", 20)
    for n in range(9):
        await fill(f"more-{n}", 3 + n)
    async with db.work() as session:
        await webhooks.fan_out(session, await publish(session), now=now)
    with counted(db) as for_small:
        await shown(pages, f"/calls/{small}")
    with counted(db) as for_large:
        assert "20 " in str(await shown(pages, f"/calls/{large}"))
    assert len(for_small) == len(for_large) <= 30
    with counted(db) as for_list:
        await shown(pages, "/calls")
    assert len(for_list) == len(for_list_of_one) <= 18


# --- one call ----------------------------------------------------------------------------------


async def test_the_page_tells_the_call_from_beginning_to_end(
    pages: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Turns, tool runs and CRM changes stand in the order in which they happened, times seek."""
    async with db.work() as session:
        await webhooks.add_endpoint(
            session, options=ENDPOINTS, url="https://example.com/in", events=["deal.*"], now=now
        )
        version = await make.profile(session)
        contact = await make.contact(session)
        deal = await make.deal(session, contact=contact)
    call, lease = await talk(db, make, now, contact_id=contact.id, profile_version_id=version.id)
    async with db.work() as session:
        await calls.open_recording(session, lease, sample_rate_hz=8000, now=now)
    await say(
        db, lease, "agent", "Shall we go", 200, 2_000, now, interrupted=True,
        latency={"stt": 240, "llm_first_token": 390, "tts_first_byte": 110, "reply": 868},
    )  # fmt: skip
    asked = await say(db, lease, "user", "Yes, go ahead.", 83_000, 84_000, now)
    async with db.work() as session:
        run = await calls.start_tool(
            session, lease, name="move_deal", arguments={"stage": "won"}, turn_id=asked,
            offset_ms=83_000, now=now,
        )  # fmt: skip
        cause = crm.Cause("call", call.id, run.id, asked, 83_000)
        await crm.move_deal(session, deal.id, "won", cause=cause, now=now)
        await calls.finish_tool(session, lease, run.id, result="Won.", now=now + 38 * MS)
        failed = await calls.start_tool(
            session, lease, name="request_callback", arguments={}, turn_id=asked,
            offset_ms=84_500, now=now,
        )  # fmt: skip
        await calls.fail_tool(session, lease, failed.id, error="timeout", now=now + 10_000 * MS)
    await say(db, lease, "user", "[keys 2 #]", 90_000, 90_000, now)
    async with db.work() as session:
        await calls.end(session, call.id, EndReason.AGENT_HANGUP, now=now + 95_000 * MS)
        await blobs.put("recordings/1.wav", b"RIFF")
        await calls.close_recording(
            session, call.id, blob_key="recordings/1.wav", duration_ms=95_000,
            peaks=[{"left": 10, "right": 0}, {"left": 0, "right": 80}],
            replies=[Reply(250, 940)], now=now,
        )  # fmt: skip
        await webhooks.fan_out(session, await publish(session), now=now)
    html = await shown(pages, f"/calls/{call.id}?t=83")
    text = str(html)
    for part in (
        "Dana Whitfield",
        "Completed The agent said goodbye and hung up.",
        "Front desk Version 1",
        "Shall we go Interrupted",
        "Replies after 940 ms Median, as heard",
        "Heard after 940 ms Speech to text 240 ms Language model 390 ms Text to speech 110 ms "
        "As the agent measured it 868 ms",
        "move_deal Done 38 ms stage won Result: Won.",
        "Deal · Stage Office Fiber from proposal → to won",
        "request_callback Failed 10.0 s Error: timeout",
        "Pressed 2 #",
        "“Yes, go ahead.”",
        "https://example.com/in deal.updated Pending Not tried yet",
    ):
        assert part in text
    told = text[text.index("Transcript") :]
    order = [
        told.index(part) for part in ("Shall we go", "Yes, go", "move_deal", "request_callback")
    ]
    assert order == sorted(order)
    assert asked in html.ids
    assert f"/calls/{call.id}?t=83#player" in html.links
    audio = next(attrs for tag, attrs in html.tags if tag == "audio")
    assert audio["src"] == f"/calls/{call.id}/recording.wav#t=83.0"
    assert (await pages.get(f"/calls/{call.id}/recording.wav")).content == b"RIFF"
    assert [tag for tag, attrs in html.tags if "data-wave" in attrs] == ["div"]


@pytest.mark.parametrize("t", ["-1", "nan", "inf", "1e999", "<script>", ""])
async def test_a_place_that_is_none_is_ignored(
    pages: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime, t: str
) -> None:
    """A bad ?t= starts the player at the beginning."""
    call, lease = await talk(db, make, now)
    async with db.work() as session:
        await calls.open_recording(session, lease, sample_rate_hz=8000, now=now)
        await calls.close_recording(
            session, call.id, blob_key="recordings/1.wav", duration_ms=1, peaks=[], now=now
        )
    answer = await pages.get(f"/calls/{call.id}", params={"t": t})
    assert f'src="/calls/{call.id}/recording.wav"' in answer.text


async def test_a_call_in_progress_renews_itself_until_told_not_to(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """A live page renews itself and can be paused; an ended one stays as it is."""
    call, lease = await talk(db, make, now)
    await say(db, lease, "user", "Hi, can you tell me", 900, None, now)
    for path in ("/calls", f"/calls/{call.id}"):
        live = await shown(pages, path)
        assert "In progress" in str(live)
        assert ("meta", "refresh") in [(tag, a.get("http-equiv")) for tag, a in live.tags]
        assert f"{path}?updates=off" in live.links
        paused = await shown(pages, f"{path}?updates=off")
        assert "Updates are paused" in str(paused)
        assert "refresh" not in [a.get("http-equiv") for _, a in paused.tags]
    async with db.work() as session:
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=now)
    for path in ("/calls", f"/calls/{call.id}"):
        ended = await shown(pages, path)
        assert "refresh" not in [a.get("http-equiv") for _, a in ended.tags]
        assert not [link for link in ended.links if "updates" in link]


async def test_what_callers_say_is_text_and_nothing_else(
    pages: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Markup in a name, a sentence, a tool's argument or result is shown as it was written."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    async with db.work() as session:
        contact = await make.contact(session, name=evil)
    call, lease = await talk(db, make, now, contact_id=contact.id)
    turn = await say(db, lease, "user", f"{evil} [keys 1]", 100, 200, now)
    async with db.work() as session:
        run = await calls.start_tool(
            session, lease, name="take_message", arguments={"text": evil, evil: [evil]},
            turn_id=turn, offset_ms=100, now=now,
        )  # fmt: skip
        await calls.finish_tool(session, lease, run.id, result=evil, now=now)
        await crm.update_contact(
            session, contact.id, {"tags": [evil]}, cause=crm.Cause("call", call.id), now=now
        )
    for path in ("/calls", f"/calls/{call.id}"):
        answer = await pages.get(path)
        html = Text(answer.text)
        assert evil in str(html)
        ours = {render.asset_url(name) for name in ("head.js", "page.js", "call.js", "calls.js")}
        assert {a.get("src") for tag, a in html.tags if tag == "script"} <= ours
        assert not [attrs for _, attrs in html.tags if "onerror" in attrs]


# --- errors ------------------------------------------------------------------------------------


async def test_a_browser_gets_errors_as_pages(pages: httpx.AsyncClient) -> None:
    """An error says what happened, what to do and under which id; a program gets it as JSON."""
    answer = await pages.get("/calls/call_nothing")
    assert answer.status_code == 404
    text = str(Text(answer.text))
    assert "Nothing is there There is no call call_nothing." in text
    assert answer.headers["x-request-id"] in text
    program = await pages.get("/calls/call_nothing", headers={"Accept": "application/json"})
    assert program.headers["content-type"] == "application/problem+json"
    assert (await pages.get("/no/such/page")).status_code == 404
    assert (await pages.post("/calls")).status_code == 405
    head = await pages.head("/calls")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("code", EXPLAINED)
async def test_every_code_is_explained_to_anyone(
    sqlite_db: Database, blobs: Blobs, now: datetime, code: str
) -> None:
    """The page that a problem's type names exists, also for a program's author elsewhere."""
    far = browser(
        sqlite_db, blobs, now, address=("203.0.113.9", 1), base_url="https://trunkline.example"
    )
    async with far as client:
        text = str(await shown(client, f"/errors/{code}"))
    assert code in text
    assert "What to do" in text


# --- words and figures -------------------------------------------------------------------------


def test_every_state_and_end_reason_has_words() -> None:
    """No call is shown by a bare code: each reason has a sentence, each live state its words."""
    assert set(words.ENDED) == set(EndReason)
    assert set(words.LIVE) == set(State) - {State.ENDED}
    every = [*words.ENDED.values(), *words.LIVE.values()]
    assert all(told.sentence.endswith(".") for told in every)
    assert len({told.short for told in every}) == len(every)


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (None, "–"),
        (0, "0 s"),
        (59_499, "59 s"),
        (59_500, "1 m 0 s"),
        (220_000, "3 m 40 s"),
        (3_600_000, "1 h 0 m"),
        (-5, "0 s"),  # two machines' clocks disagree
    ],
)
def test_a_duration_is_read_at_a_glance(ms: int | None, expected: str) -> None:
    """Hours and minutes, minutes and seconds, or seconds."""
    assert fmt.duration(ms) == expected


@pytest.mark.parametrize(
    ("e164", "beside", "expected"),
    [
        ("+12025550134", "+12025550100", "(202) 555-0134"),  # one country: as people dial there
        ("+493012345678", "+12025550100", "+49 30 12345678"),  # another country
        ("+12025550134", None, "+1 202-555-0134"),  # nothing to compare with
        (None, "+12025550100", "Hidden number"),
        ("anonymous", "+12025550100", "anonymous"),  # stored before anyone checked
    ],
)
def test_a_number_is_written_for_its_reader(
    e164: str | None, beside: str | None, expected: str
) -> None:
    """National beside a number of the same country, international otherwise."""
    assert fmt.number(e164, beside) == expected
    assert phone.PhoneNumber("+12025550134").e164 not in fmt.number(e164, beside)


def test_a_waveform_has_the_caller_above_and_the_agent_below() -> None:
    """The left channel grows up from the middle, the right one down; the loudest fills its half."""
    left, right = waveform.paths([(100, 0), (0, 50)])
    assert re.findall(r"v(-?[\d.]+)", left) == ["-46.0", "-0.8"]
    assert re.findall(r"v(-?[\d.]+)", right) == ["0.8", "23.0"]
    assert waveform.paths([]) == ("", "")
    many = waveform.paths([(50, 50)] * 5000)
    assert many[0].count("M") == many[1].count("M") == 250


async def test_webhooks_that_are_off_are_told_on_top_of_the_pages(
    sqlite_db: Database, blobs: Blobs, now: datetime
) -> None:
    """The notice names the host and the reason, never the rest of the address, and leads to what to do."""
    async with sqlite_db.work() as session:
        for name, reason in (
            ("by-hand", webhooks.BY_HAND),
            ("broken", "nothing has reached it since 2026-01-12 09:00 UTC"),
        ):
            endpoint, _ = await webhooks.add_endpoint(
                session,
                options=ENDPOINTS,
                url=f"https://{name}.example/hook?key=xyzzy",
                events=["*"],
                now=now,
            )
            await webhooks.set_enabled(session, endpoint.id, False, reason=reason, now=now)
    async with browser(sqlite_db, blobs, now) as client:
        calls_page = (await client.get("/calls")).text
        help_page = (await client.get("/webhooks/off")).text
        assert "broken.example</strong>: nothing has reached it since" in calls_page
        assert 'href="/webhooks/off"' in calls_page
        assert f"/v1/endpoints/{endpoint.id}/recover" in help_page
        assert "xyzzy" not in calls_page + help_page
        assert "by-hand" not in calls_page + help_page
        async with sqlite_db.work() as session:
            await webhooks.set_enabled(session, endpoint.id, True, now=now)
        assert "/webhooks/off" not in (await client.get("/calls")).text
        assert "All endpoints are on." in (await client.get("/webhooks/off")).text
