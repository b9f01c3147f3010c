"""The API under /v1 as a program meets it: keys, problems, pages of calls, one call, its sound."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema_rs
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from trunkline import errors
from trunkline.access import service as access
from trunkline.access.models import ApiKey
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.crm import service as crm
from trunkline.kit.audio import wav_bytes
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database
from trunkline.kit.ids import is_id, new_id
from trunkline.web.app import create_app
from trunkline.web.errors import EXPLAINED, status_of
from trunkline.web.media import Unsatisfiable, part_asked
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make

MS = timedelta(milliseconds=1)
WAV = wav_bytes(bytes(range(250)) * 16, 8000, 2)
"""A stereo recording, 1000 frames long."""


def client_of(db: Database, blobs: Blobs, now: datetime) -> httpx.AsyncClient:
    """A program on another machine."""
    app = create_app(db, blobs, WebOptions(), clock=lambda: now)
    far = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=far, base_url="https://trunkline.example")


@pytest.fixture
async def api(db: Database, blobs: Blobs, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A program with a key of all scopes."""
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="tests", scopes=list(access.KEY_SCOPES), now=now - timedelta(days=1)
        )
    async with client_of(db, blobs, now) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


async def a_key(db: Database, now: datetime, *scopes: str) -> tuple[ApiKey, dict[str, str]]:
    async with db.work() as session:
        key, token = await access.add_key(session, name="partner", scopes=scopes, now=now)
    return key, {"Authorization": f"Bearer {token}"}


async def a_sale(db: Database, blobs: Blobs, make: "Make", now: datetime) -> str:
    """A call in which Dana's deal is won; its id."""
    async with db.work() as session:
        version = await make.profile(session)
        contact = await make.contact(session)
        deal = await make.deal(session, contact=contact)
        call = await make.call(session, contact_id=contact.id, profile_version_id=version.id)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
        recording = await calls.open_recording(session, lease, sample_rate_hz=8000, now=now)
        await calls.add_segment(session, lease, recording.id, "segments/1.pcm", now=now)
        await calls.save_turn(
            session, lease, turn_id=None, role="agent", text="Hello Dana.",
            started_ms=100, ended_ms=900, latency={"reply": 640}, now=now,
        )  # fmt: skip
        asked = await calls.save_turn(
            session, lease, turn_id=None, role="user", text="Yes, please go ahead.",
            started_ms=1_500, ended_ms=2_400, now=now,
        )  # fmt: skip
        run = await calls.start_tool(
            session, lease, name="move_deal", arguments={"stage": "won"},
            turn_id=asked.id, offset_ms=1_500, now=now,
        )  # fmt: skip
        cause = crm.Cause("call", call.id, run.id, asked.id, 1_500)
        await crm.move_deal(session, deal.id, "won", cause=cause, now=now)
        await crm.log_activity(
            session, kind="note", summary="Goes ahead.", contact_id=contact.id,
            deal_id=deal.id, cause=cause, now=now,
        )  # fmt: skip
        await calls.finish_tool(session, lease, run.id, result="Won.", now=now + 38 * MS)
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=now + 5_000 * MS)
        await blobs.put("recordings/1.wav", WAV)
        await calls.close_recording(
            session, call.id, blob_key="recordings/1.wav", duration_ms=125, peaks=[], now=now
        )
    return call.id


async def many_calls(db: Database, make: "Make", now: datetime, count: int) -> list[str]:
    """The ids of that many calls, newest first; each two began in the same moment."""
    async with db.work() as session:
        made = [
            await make.call(session, room=f"room-{n}", now=now + (n // 2) * timedelta(minutes=1))
            for n in range(count)
        ]
    made.sort(key=lambda call: (call.started_at, call.id), reverse=True)
    return [call.id for call in made]


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"/errors/{code}"
    assert body["instance"] == answer.request.url.path
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["title"]
    assert body["detail"].endswith((".", "!", "?"))
    return body


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/calls",
        "/v1/calls/call_x",
        "/v1/calls/call_x/transcript",
        "/v1/calls/call_x/recording",
        "/v1/me",
    ],
)
@pytest.mark.parametrize(
    "header",
    [
        None,  # no key at all
        "Bearer tl_" + "A" * 43,  # a key of the right form that nobody was given
        "Bearer sk_live_123",  # somebody else's
        "Basic dXNlcjpwYXNz",  # another scheme
        "Bearer",  # nothing behind the scheme
    ],
)
async def test_without_a_valid_key_there_is_nothing(
    sqlite_db: Database, blobs: Blobs, now: datetime, path: str, header: str | None
) -> None:
    """Every route under /v1 asks for a key, also before it says whether a thing exists."""
    headers = {"Authorization": header} if header else {}
    async with client_of(sqlite_db, blobs, now) as client:
        answer = await client.get(path, headers=headers)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_revoked_key_is_refused_from_the_next_request_on(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """What worked a moment ago answers 401 once the key is revoked."""
    key, header = await a_key(db, now, "calls:read")
    assert (await api.get("/v1/calls", headers=header)).status_code == 200
    async with db.work() as session:
        await access.revoke_key(session, key.id, now=now)
    assert_problem(await api.get("/v1/calls", headers=header), 401, "unauthorized")


@pytest.mark.parametrize(
    ("scope", "path", "missing"),
    [
        ("webhooks:read", "/v1/calls", "calls:read"),
        ("contacts:read", "/v1/calls/call_x", "calls:read"),
        ("recordings:read", "/v1/calls/call_x/transcript", "calls:read"),
        ("calls:read", "/v1/calls/call_x/recording", "recordings:read"),  # words are not the sound
    ],
)
async def test_a_key_reaches_as_far_as_its_scopes(
    api: httpx.AsyncClient, db: Database, now: datetime, scope: str, path: str, missing: str
) -> None:
    """Without the scope the answer is 403 and names it."""
    _, header = await a_key(db, now, scope)
    answer = await api.get(path, headers=header)
    body = assert_problem(answer, 403, "forbidden")
    assert missing in body["detail"]
    assert f'scope="{missing}"' in answer.headers["www-authenticate"]


async def test_me_tells_who_asks_and_the_use_is_noted(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """GET /v1/me needs no scope, and the key's last use is stored."""
    key, header = await a_key(db, now, "webhooks:read")
    answer = await api.get("/v1/me", headers=header)
    assert answer.json() == {
        "key_id": key.id,
        "name": "partner",
        "scopes": ["webhooks:read"],
        "expires_at": None,
    }
    async with db.look() as session:
        assert (await session.get_one(ApiKey, key.id)).last_used_at == now


# --- the list ----------------------------------------------------------------------------------


async def test_pages_give_every_call_once(
    api: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Following next_cursor gives all calls, newest first, also those that began together."""
    expected = await many_calls(db, make, now, 7)
    seen, cursor = [], None
    for _ in range(4):
        answer = await api.get(
            "/v1/calls", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        )
        body = answer.json()
        seen += [call["id"] for call in body["data"]]
        cursor = body["next_cursor"]
    assert seen == expected
    assert cursor is None


async def test_a_cursor_stands_still_while_new_calls_come(
    api: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """A call that begins between two pages shifts nothing."""
    expected = await many_calls(db, make, now, 4)
    first = (await api.get("/v1/calls", params={"limit": 2})).json()
    async with db.work() as session:
        await make.call(session, room="late", now=now + timedelta(hours=1))
    rest = (await api.get("/v1/calls", params={"cursor": first["next_cursor"]})).json()
    assert [call["id"] for call in first["data"] + rest["data"]] == expected


async def test_a_call_that_goes_away_leaves_nothing_half_shown(
    api: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """The list goes on behind a call that is removed between two pages, and whoever asks for the call itself
    is told that it is not there, whatever of it they ask for or want to change."""
    expected = await many_calls(db, make, now, 4)
    first = (await api.get("/v1/calls", params={"limit": 2})).json()
    gone = expected[1]
    async with db.work() as session:
        for row in ("legs WHERE call_id", "calls WHERE id"):
            await session.execute(text(f"DELETE FROM {row} = :id"), {"id": gone})  # noqa: S608
    rest = (await api.get("/v1/calls", params={"cursor": first["next_cursor"]})).json()
    assert [call["id"] for call in rest["data"]] == expected[2:]
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/transcript", None),
        ("GET", "/recording", None),
        ("GET", "/marks", None),
        ("POST", "/recording/link", {}),
        ("PUT", "/review", {"review": "done"}),
        ("PUT", "/tags/vip", None),
        ("DELETE", "/tags/vip", None),
        ("POST", "/comments", {"text": "Too late."}),
    ):
        answer = await api.request(method, f"/v1/calls/{gone}{path}", json=body)
        assert_problem(answer, 404, "not_found")
    async with db.look() as session:
        for table in ("call_tags", "call_comments"):
            left = await session.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608
            assert left == 0, table


def _word(said: str) -> str:
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({"limit": "1000000000"}, "query.limit"),  # more than a page may have
        ({"limit": "0"}, "query.limit"),  # a page of nothing
        ({"limit": "-5"}, "query.limit"),  # less than that
        ({"limit": "many"}, "query.limit"),  # no number
        ({"cursor": "x" * 5000}, "query.cursor"),  # longer than any of ours
        ({"cursor": "abc"}, None),  # no cursor
        ({"cursor": ""}, None),  # an empty one
        ({"cursor": "é☎"}, None),  # not even ASCII
        ({"cursor": _word("2|2026-01-15T09:30:00+00:00|call_" + "0" * 26)}, None),  # a later form
        ({"cursor": _word("1|2026-01-15T09:30:00|call_" + "0" * 26)}, None),  # a time without zone
        ({"cursor": _word("1|yesterday|call_" + "0" * 26)}, None),  # no time
        ({"cursor": _word("1|2026-01-15T09:30:00+00:00|1 OR 1=1")}, None),  # no id
    ],
)
async def test_a_bad_query_is_told_in_words(
    api: httpx.AsyncClient, query: dict[str, str], where: str | None
) -> None:
    """A limit or cursor that is none gets 422 with a reason, never a 500 and never another page."""
    body = assert_problem(await api.get("/v1/calls", params=query), 422, "invalid")
    assert [fault["where"] for fault in body.get("errors", [])] == ([where] if where else [])


# --- one call ----------------------------------------------------------------------------------


async def test_a_call_tells_everything_about_itself(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """GET /v1/calls/{id} has turns, tool runs, changes with their evidence, and the recording."""
    call_id = await a_sale(db, blobs, make, now)
    body = (await api.get(f"/v1/calls/{call_id}")).json()
    assert (body["state"], body["end_reason"], body["duration_ms"]) == (
        "ended",
        "caller_hangup",
        5_000,
    )
    assert body["contact"]["name"] == "Dana Whitfield"
    assert body["started_at"] == "2026-01-15T09:30:00Z"
    assert [(turn["role"], turn["text"]) for turn in body["turns"]] == [
        ("agent", "Hello Dana."),
        ("user", "Yes, please go ahead."),
    ]
    (run,) = body["tool_runs"]
    assert (run["name"], run["arguments"], run["state"]) == ("move_deal", {"stage": "won"}, "ok")
    assert (run["result"], run["ms"]) == ("Won.", 38)
    moved, logged = body["changes"]
    assert (moved["entity"], moved["field"], moved["before"], moved["after"]) == (
        "deal", "stage", "proposal", "won",
    )  # fmt: skip
    assert (moved["title"], moved["turn_id"], moved["offset_ms"]) == (
        "Office Fiber", body["turns"][1]["id"], 1_500,
    )  # fmt: skip
    assert (logged["entity"], logged["field"]) == ("activity", "*")
    assert [activity["summary"] for activity in body["activities"]] == ["Goes ahead."]
    assert body["deliveries"] == []
    assert (body["recording"]["state"], body["recording"]["duration_ms"]) == ("ready", 125)
    counted = ("turn_count", "change_count", "failed_tool_count", "recorded")
    (listed,) = (await api.get("/v1/calls")).json()["data"]
    assert [listed[name] for name in counted] == [2, 2, 0, True]
    transcript = (await api.get(f"/v1/calls/{call_id}/transcript")).json()
    assert transcript == {"call_id": call_id, "data": body["turns"]}


@pytest.mark.parametrize("path", ["", "/transcript", "/recording"])
@pytest.mark.parametrize(
    "call_id",
    [
        "call_01kf0q8m3s7t9v1w3x5y7z9abc",  # well-formed, of no call
        "con_01kf0q8m3s7t9v1w3x5y7z9abc",  # of another kind
        "%27%20OR%201=1--",  # somebody tries something
        "☎",  # not even ASCII
    ],
)
async def test_an_unknown_id_is_not_found(api: httpx.AsyncClient, path: str, call_id: str) -> None:
    """An id that is nobody's gets 404 from every route of a call."""
    assert_problem(await api.get(f"/v1/calls/{call_id}{path}"), 404, "not_found")


# --- the recording -----------------------------------------------------------------------------

SIZE = len(WAV)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", range(1)),  # the first byte
        ("bytes=0-", range(SIZE)),  # what a player asks first
        ("bytes=100-199", range(100, 200)),  # both ends count
        ("bytes=-500", range(SIZE - 500, SIZE)),  # the last 500
        (f"bytes=-{SIZE * 9}", range(SIZE)),  # a suffix longer than all is all
        (f"bytes=10-{10**15}", range(10, SIZE)),  # cut at the end
        (f"bytes={SIZE - 1}-", range(SIZE - 1, SIZE)),  # the last byte
        ("Bytes=5-9", range(5, 10)),  # units are written in any case
    ],
)
async def test_a_part_is_what_was_asked_for(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime,
    asked: str, expected: range,
) -> None:  # fmt: skip
    """A range that can be met gets 206 and just these bytes."""
    call_id = await a_sale(db, blobs, make, now)
    answer = await api.get(f"/v1/calls/{call_id}/recording", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == WAV[expected.start : expected.stop]
    assert answer.headers["content-range"] == f"bytes {expected.start}-{expected.stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "header",
    [
        None,  # no range
        "bytes=0-1,5-6",  # several parts: may be answered with the whole
        "bytes=9-5",  # backwards: not valid, so ignored
        "bytes=abc",  # no numbers
        "bytes=-",  # nothing
        "items=0-5",  # a unit that we do not know
        "bytes=" + "9" * 400 + "-",  # a number beyond all reason
    ],
)
def test_what_is_no_single_range_asks_for_the_whole(header: str | None) -> None:
    """RFC 9110 §14.2: an invalid range is ignored, and several may be."""
    assert part_asked(header, 1000) is None


@pytest.mark.parametrize(
    "header",
    ["bytes=1000-", "bytes=5000-6000", "bytes=-0"],  # behind the end, far behind, the last nothing
)
async def test_a_range_behind_the_end_is_416(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime, header: str
) -> None:
    """A range that nothing can meet gets 416 and the size, so that the client can ask better."""
    with pytest.raises(Unsatisfiable):
        part_asked(header, 1000)
    call_id = await a_sale(db, blobs, make, now)
    far = header.replace("1000", str(SIZE))
    answer = await api.get(f"/v1/calls/{call_id}/recording", headers={"Range": far})
    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


async def test_the_whole_recording_and_its_second_reading(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """GET gives the WAV with an ETag; HEAD its size alone; what is known already is 304."""
    path = f"/v1/calls/{(call_id := await a_sale(db, blobs, make, now))}/recording"
    whole = await api.get(path)
    assert (whole.status_code, whole.content) == (200, WAV)
    assert whole.headers["content-type"] == "audio/wav"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"] == f'inline; filename="{call_id}.wav"'
    head = await api.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(SIZE)
    tag = whole.headers["etag"]
    assert (await api.get(path, headers={"If-None-Match": tag})).status_code == 304
    part = {"Range": "bytes=0-9"}
    assert (await api.get(path, headers=part | {"If-Range": tag})).status_code == 206
    # The client holds a part of something else: it must get the whole.
    assert (await api.get(path, headers=part | {"If-Range": '"older"'})).status_code == 200


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("unrecorded", "not recorded"),  # the profile's switch is off
        ("open", "not complete yet"),  # the call goes on
        ("lost", "no longer in the store"),  # somebody emptied the folder
    ],
)
async def test_a_sound_that_is_not_there_is_told_so(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime,
    what: str, says: str,
) -> None:  # fmt: skip
    """No sound is a 404 that says why."""
    if what == "lost":
        call_id = await a_sale(db, blobs, make, now)
        await blobs.delete("recordings/1.wav")
    else:
        async with db.work() as session:
            call_id = (await make.call(session)).id
            lease = await calls.take_lease(session, call_id, now=now)
            if what == "open":
                await calls.open_recording(session, lease, sample_rate_hz=8000, now=now)
    body = assert_problem(await api.get(f"/v1/calls/{call_id}/recording"), 404, "not_found")
    assert says in body["detail"]


# --- errors and the rest -----------------------------------------------------------------------


def test_every_error_has_a_status_and_an_explanation() -> None:
    """Each error of the product leads to a status, its parent's if need be, and to a page."""

    def kinds(parent: type[errors.TrunklineError]) -> list[type[errors.TrunklineError]]:
        return [parent, *(kind for child in parent.__subclasses__() for kind in kinds(child))]

    ours = [kind for kind in kinds(errors.TrunklineError) if kind.__module__ == errors.__name__]
    assert {kind.code for kind in ours} <= set(EXPLAINED)
    assert status_of(errors.IllegalTransition("x")) == status_of(errors.Conflict("x")) == 409
    assert status_of(errors.ProviderFailed("x")) == 503
    assert status_of(errors.TrunklineError("x")) == 500


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/calls/", 404, "not_found"),  # not redirected: the key would go along
        ("DELETE", "/v1/calls", 405, "method_not_allowed"),
        ("DELETE", "/v1/me", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/calls", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/calls/exports", 405, "method_not_allowed"),  # and not a call's id
    ],
)
async def test_unknown_routes_and_methods_are_problems_too(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """Whatever goes wrong under /v1 is told in the same form."""
    answer = await api.request(method, path)
    assert_problem(answer, status, code)
    if status == 405:
        # All that the address takes, though each method is a route of its own.
        takes = {"/v1/me": "GET", "/v1/calls": "GET, POST", "/v1/calls/exports": "POST"}
        assert answer.headers["allow"] == takes[path]


async def test_a_surprise_is_a_500_that_tells_nothing_of_the_inside(
    sqlite_db: Database, blobs: Blobs, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen error gives a request id; its own text stays in the log."""

    async def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("secret of the inside")

    _, header = await a_key(sqlite_db, now, "calls:read")
    monkeypatch.setattr("trunkline.desk.call_list.page", breaks)
    async with client_of(sqlite_db, blobs, now) as client:
        answer = await client.get("/v1/calls", headers=header)
    assert_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_database_that_is_gone_is_a_503(
    sqlite_db: Database, blobs: Blobs, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database does not answer: 503 with Retry-After; /health lives, /ready says no."""

    class Gone:
        async def __aenter__(self) -> None:
            raise OperationalError("SELECT secret", None, Exception("connection refused"))

        async def __aexit__(self, *_: object) -> None: ...

    monkeypatch.setattr(sqlite_db, "look", Gone)
    async with client_of(sqlite_db, blobs, now) as client:
        for path in ("/ready", "/v1/me"):
            answer = await client.get(path, headers={"Authorization": "Bearer x"})
            assert_problem(answer, 503, "unavailable")
            assert answer.headers["retry-after"]
            assert "secret" not in answer.text
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_a_healthy_server_is_ready(api: httpx.AsyncClient) -> None:
    """/health and /ready need no key."""
    for path in ("/health", "/ready"):
        answer = await api.get(path, headers={"Authorization": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("deploy-42.a:b_c", True),  # somebody follows a request through their systems
        ("x" * 128, True),
        ("x" * 129, False),  # too long for a log line
        ("a b", False),  # would break a log line apart
        (None, False),
    ],
)
async def test_a_request_id_is_kept_or_made(
    api: httpx.AsyncClient, given: str | None, kept: bool
) -> None:
    """A sane X-Request-Id comes back as it was; otherwise one is made."""
    headers = {"X-Request-Id": given} if given else {}
    answered = (await api.get("/v1/me", headers=headers)).headers["x-request-id"]
    assert (answered == given) is kept
    assert kept or is_id("req", answered)


async def test_answers_are_not_kept_and_never_taken_for_something_else(
    api: httpx.AsyncClient,
) -> None:
    """What the API says is private: no cache, no sniffing, no framing."""
    headers = (await api.get("/v1/me")).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_the_description_fits_what_is_there(api: httpx.AsyncClient) -> None:
    """/openapi.json is OpenAPI 3.1: stable ids, our problems on each error, examples, a key needed."""
    document = (await api.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = {
        operation["operationId"]: (path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
    }
    assert {name: path for name, (path, _) in operations.items()} == {
        "list_calls": "/v1/calls",
        "place_call": "/v1/calls",
        "call_for_activity": "/v1/activities/{activity_id}/call",
        "import_contacts": "/v1/contacts/imports",
        "get_contact_import": "/v1/contacts/imports/{import_id}",
        "run_contact_import": "/v1/contacts/imports/{import_id}/run",
        "get_contact_import_errors": "/v1/contacts/imports/{import_id}/errors",
        "export_calls": "/v1/calls/exports",
        "get_export": "/v1/calls/exports/{export_id}",
        "get_export_file": "/v1/calls/exports/{export_id}/file",
        "get_call": "/v1/calls/{call_id}",
        "get_marks": "/v1/calls/{call_id}/marks",
        "set_review": "/v1/calls/{call_id}/review",
        "add_tag": "/v1/calls/{call_id}/tags/{tag}",
        "remove_tag": "/v1/calls/{call_id}/tags/{tag}",
        "add_comment": "/v1/calls/{call_id}/comments",
        "get_transcript": "/v1/calls/{call_id}/transcript",
        "get_recording": "/v1/calls/{call_id}/recording",
        "list_views": "/v1/views",
        "save_view": "/v1/views/{name}",
        "remove_view": "/v1/views/{name}",
        "get_me": "/v1/me",
        "list_users": "/v1/users",
        "list_keys": "/v1/keys",
        "list_audit": "/v1/audit",
        "list_contacts": "/v1/contacts",
        "list_deals": "/v1/deals",
        "list_pipelines": "/v1/pipelines",
        "create_pipeline": "/v1/pipelines",
        "list_activities": "/v1/activities",
        "list_hooks": "/v1/hooks",
        "upsert_contact": "/v1/contacts:upsert",
        "get_contact": "/v1/contacts/{contact_id}",
        "list_duplicates": "/v1/contacts/{contact_id}/duplicates",
        "merge_contacts": "/v1/contacts/{contact_id}/merge",
        "list_changes": "/v1/changes",
        "get_change": "/v1/changes/{change_id}",
        "undo_change": "/v1/changes/{change_id}/undo",
        "upsert_deal": "/v1/deals:upsert",
        "get_deal": "/v1/deals/{deal_id}",
        "upsert_activity": "/v1/activities:upsert",
        "get_activity": "/v1/activities/{activity_id}",
        "list_numbers": "/v1/numbers",
        "get_number": "/v1/numbers/{number}",
        "set_number": "/v1/numbers/{number}",
        "delete_number": "/v1/numbers/{number}",
        "list_blocked_callers": "/v1/blocked-callers",
        "block_caller": "/v1/blocked-callers",
        "unblock_caller": "/v1/blocked-callers/{block_id}",
        "list_profiles": "/v1/profiles",
        "get_profile": "/v1/profiles/{name}",
        "publish_profile": "/v1/profiles/{name}",
        "get_profile_yaml": "/v1/profiles/{name}/yaml",
        "publish_profile_yaml": "/v1/profiles/{name}/yaml",
        "list_profile_versions": "/v1/profiles/{name}/versions",
        "get_profile_version": "/v1/profiles/{name}/versions/{version}",
        "diff_profile": "/v1/profiles/{name}/diff",
        "list_event_types": "/v1/event-types",
        "get_event_schema": "/v1/event-types/{type}/schema",
        "list_event_samples": "/v1/events/samples",
        "get_event": "/v1/events/{event_id}",
        "list_events": "/v1/events",
        "create_endpoint": "/v1/endpoints",
        "list_endpoints": "/v1/endpoints",
        "get_endpoint": "/v1/endpoints/{endpoint_id}",
        "update_endpoint": "/v1/endpoints/{endpoint_id}",
        "delete_endpoint": "/v1/endpoints/{endpoint_id}",
        "rotate_secret": "/v1/endpoints/{endpoint_id}/rotate",
        "link_recording": "/v1/calls/{call_id}/recording/link",
        "get_signed_recording": "/v1/calls/{call_id}/recording/signed",
        "send_test": "/v1/endpoints/{endpoint_id}/test",
        "send_sample": "/v1/endpoints/{endpoint_id}/sample",
        "recover_endpoint": "/v1/endpoints/{endpoint_id}/recover",
        "replay_endpoint": "/v1/endpoints/{endpoint_id}/replay",
        "list_deliveries": "/v1/deliveries",
        "get_delivery": "/v1/deliveries/{delivery_id}",
        "resend_delivery": "/v1/deliveries/{delivery_id}/resend",
        "create_hook": "/v1/hooks",
        "delete_hook": "/v1/hooks/{hook_id}",
        "get_health": "/health",
        "get_ready": "/ready",
    }
    for name, (path, operation) in operations.items():
        assert operation["summary"], name
        # The signature in the address is the permission.
        by_key = path.startswith("/v1") and name != "get_signed_recording"
        assert bool(operation.get("security")) is by_key, name
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (name, status)
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert schemas["Problem"]["examples"]
    assert schemas["CallSummary"]["properties"]["id"]["examples"]
    references = [
        part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]
    ]
    assert set(references) <= set(schemas)


async def test_many_may_ask_at_once(
    api: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """Twenty requests of one fresh key at once all get their answer."""
    await many_calls(db, make, now, 3)
    _, header = await a_key(db, now, "calls:read")
    answers = await asyncio.gather(*(api.get("/v1/calls", headers=header) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert {len(answer.json()["data"]) for answer in answers} == {3}


async def test_a_call_outlives_its_contact(
    api: httpx.AsyncClient, db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """A call whose contact was removed is still shown, without a name."""
    async with db.work() as session:
        call = await make.call(session, contact_id=new_id("con", now=now))
        assert await session.scalar(text("SELECT count(*) FROM contacts")) == 0
    body = (await api.get(f"/v1/calls/{call.id}")).json()
    assert (body["contact"], body["from_number"]) == (None, "+12025550134")


async def test_every_list_has_bounds_and_knows_its_cursors(api: httpx.AsyncClient) -> None:
    """Whatever takes `limit` or a cursor refuses what is out of bounds, or no cursor of ours, in words."""
    document = (await api.get("/openapi.json")).json()
    asked = 0
    for path, methods in document["paths"].items():
        taken = {part["name"] for part in methods.get("get", {}).get("parameters", ())}
        if "limit" in taken:
            for limit in ("1000000000", "0", "-1", "many"):
                answer = await api.get(path, params={"limit": limit, "type": "call.ended"})
                assert "limit" in assert_problem(answer, 422, "invalid")["detail"], path
                asked += 1
        for name in taken & {"cursor", "after"} if "limit" in taken else ():
            answer = await api.get(path, params={name: "none-of-ours"})
            assert "cursor" in assert_problem(answer, 422, "invalid")["detail"], path
    assert asked > 30


async def test_every_operation_says_what_it_is(api: httpx.AsyncClient) -> None:
    """Each operation has tags, a summary, a description, and words for each of its parameters."""
    document = (await api.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["tags"], where
            assert operation["description"], where
            for part in operation.get("parameters", ()):
                said = part.get("description") or part["schema"].get("description")
                assert said, (where, part["name"])


@pytest.mark.parametrize(
    "q", ["((" * 5000, "NOT " * 2500, '"' * 10_000, "a OR " * 2000, "caller:" * 1400]
)
async def test_a_query_of_ten_kilobytes_is_refused_in_words(api: httpx.AsyncClient, q: str) -> None:
    """However its operators are put together, the answer says how long a query may be."""
    body = assert_problem(await api.get("/v1/calls", params={"q": q}), 422, "invalid")
    assert "query.q" in body["detail"]
    assert "4000" in body["detail"]


async def test_every_answer_has_an_example_that_is_true(api: httpx.AsyncClient) -> None:
    """Each JSON answer has a whole example, which its own schema allows."""
    document = (await api.get("/openapi.json")).json()
    shared, seen = {"components": document["components"]}, 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                media = answer.get("content", {}).get("application/json")
                if int(status) >= 400 or media is None:
                    continue
                validator = jsonschema_rs.Draft202012Validator(
                    {**media["schema"], **shared}, validate_formats=True
                )
                where = operation["operationId"], status
                assert "example" in media, where
                assert validator.is_valid(media["example"]), where
                seen += 1
    assert seen > 60
