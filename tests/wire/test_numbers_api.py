"""The API for numbers, profiles and blocked callers."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from trunkline.access import queries as access_queries
from trunkline.access import service as access
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.profiles import queries, text
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make

OURS = "+12025550100"


@pytest.fixture
async def api(db: Database, tmp_path: Path, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A program with a key of all scopes."""
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="tests", scopes=list(access.KEY_SCOPES), now=now - timedelta(days=1)
        )
    app = create_app(db, open_blobs(BlobOptions(str(tmp_path))), WebOptions(), clock=lambda: now)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="https://trunkline.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


def body(make: "Make", **fields: Any) -> dict[str, Any]:
    return make.body(**fields).model_dump(mode="json")


async def test_a_profile_is_made_changed_and_compared(api: httpx.AsyncClient, make: "Make") -> None:
    """Publishing tells what changed; each version can be read and compared later."""
    made = await api.put("/v1/profiles/Front desk", json=body(make))
    assert (made.status_code, made.json()) == (201, {"created": True, "version": 1, "changes": []})
    changed = await api.put("/v1/profiles/Front desk", json=body(make, limits={"max_calls": 3}))
    change = {"field": "limits.max_calls", "before": None, "after": 3}
    assert (changed.status_code, changed.json()) == (
        200,
        {"created": False, "version": 2, "changes": [change]},
    )
    same = await api.put("/v1/profiles/Front desk", json=body(make, limits={"max_calls": 3}))
    assert same.json() == {"created": False, "version": 2, "changes": []}

    shown = (await api.get("/v1/profiles/Front desk")).json()
    assert (shown["version"], shown["numbers"], shown["body"]["limits"]["max_calls"]) == (2, 0, 3)
    versions = (await api.get("/v1/profiles/Front desk/versions")).json()["data"]
    assert [(one["version"], one["published"]) for one in versions] == [(2, True), (1, False)]
    first = (await api.get("/v1/profiles/Front desk/versions/1")).json()
    assert first["body"]["limits"]["max_calls"] is None
    diff = (await api.get("/v1/profiles/Front desk/diff?before=1")).json()
    assert diff == {"before": 1, "after": 2, "changes": [change]}
    back = (await api.get("/v1/profiles/Front desk/diff?before=2&after=1")).json()["changes"]
    assert back == [{"field": "limits.max_calls", "before": 3, "after": None}]


async def test_of_two_who_edit_one_profile_the_second_sees_what_changed(
    api: httpx.AsyncClient, make: "Make", db: Database
) -> None:
    """With If-Match nobody's version is overwritten unseen, and the refusal names what they changed."""
    where = "/v1/profiles/Front desk"
    assert (await api.put(where, json=body(make), headers={"If-Match": "1"})).status_code == 409
    await api.put(where, json=body(make))
    first, second = body(make, farewell="Bye now."), body(make, agent_name="Noa")
    done = await api.put(where, json=first, headers={"If-Match": '"1"'})
    assert (done.status_code, done.json()["version"]) == (200, 2)
    late = await api.put(where, json=second, headers={"If-Match": "1"})
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert "it changed: farewell." in late.json()["detail"]
    for nonsense in ("7", "one"):
        wrong = await api.put(where, json=second, headers={"If-Match": nonsense})
        assert wrong.status_code == 409
        assert "version 2 answers" in wrong.json()["detail"]
    assert (await api.get(where)).json()["body"]["farewell"] == "Bye now."
    after = await api.put(where, json=second, headers={"If-Match": "2"})
    assert (after.status_code, after.json()["version"]) == (200, 3)
    async with db.look() as session:
        told = await access_queries.audit(session, action="profile.published", limit=10)
    assert [line.details["version"] for line in told] == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"tools": ["sing"]}, 422, "body.tools.0"),
        ({"colour": "red"}, 422, "body.colour"),
        ({"after_hours": "Night"}, 422, "after_hours: there is no profile 'Night'"),
        ({"after_hours": "Day"}, 422, "(Day → Day)"),
    ],
)
async def test_a_bad_profile_is_refused_whole(
    api: httpx.AsyncClient, make: "Make", fields: dict[str, Any], status: int, says: str
) -> None:
    """Nothing of it is stored, and the problem names the field."""
    answer = await api.put("/v1/profiles/Day", json={**body(make), **fields})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert (await api.get("/v1/profiles/Day")).status_code == 404
    assert (await api.get("/v1/profiles")).json() == {"data": [], "next_cursor": None}


FILE = "/v1/profiles/Front desk/yaml"


async def test_a_profile_goes_out_as_a_file_and_comes_back(
    api: httpx.AsyncClient, db: Database
) -> None:
    """The example is published as it is printed; what GET gives is what `profile export` prints, changes
    nothing when it is sent back, and with its ETag nobody's version is overwritten unseen."""
    made = await api.put(FILE, content=text.example())
    assert (made.status_code, made.json()) == (201, {"created": True, "version": 1, "changes": []})
    shown = await api.get(FILE)
    assert shown.headers["content-type"].startswith("application/yaml")
    assert shown.headers["etag"] == '"1"'
    assert shown.text == text.write(text.parse(text.example())).strip() + "\n"
    assert "# " in shown.text
    with_bom = b"\xef\xbb\xbf" + shown.content  # as some editors save it
    for etag in ('"1"', 'W/"1"', "1", "*"):  # weakened by a proxy, bare, whichever
        same = await api.put(FILE, content=with_bom, headers={"If-Match": etag})
        assert (same.status_code, same.json()["version"]) == (200, 1), etag

    edited = shown.text.replace("\ncompany: ", "\ncompany: New ", 1)
    both = {"If-Match": '"1"', "Content-Type": "application/yaml", "Idempotency-Key": "once"}
    changed = await api.put(FILE, content=edited, headers=both)
    assert changed.json()["version"] == 2
    assert [one["field"] for one in changed.json()["changes"]] == ["company"]
    again = await api.put(FILE, content=edited, headers=both)
    assert (again.json(), again.headers["idempotent-replayed"]) == (changed.json(), "true")
    late = await api.put(FILE, content=shown.content, headers={"If-Match": '"1"'})
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert "it changed: company." in late.json()["detail"]
    as_json = (await api.get("/v1/profiles/Front desk")).json()
    assert (as_json["version"], as_json["body"]["company"][:4]) == (2, "New ")
    async with db.look() as session:
        told = await access_queries.audit(session, action="profile.published", limit=10)
    assert [line.details["version"] for line in told] == ["2", "1"]
    missing = await api.get("/v1/profiles/Nobody/yaml")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must have fields"),
        (b"- a\n", "must have fields"),
        (b"company: [Acme\n", "no YAML: line 2, column 1"),
        (b"company: A\nlanguage: en\ncompany: B\n", "3: company is there already, in line 1"),
        (b"company: A\ntools: [sing]\n", "tools.0"),
        (b"company: A\nregion: \xff\n", "2 is not UTF-8"),
        (b"[" * 5000, "no YAML"),
        (b"x: " + b"y" * 200_000, "more than 200,000 characters"),
        (b"y" * 900_000, "more than 200,000 characters"),
        (text.example().encode() + b"after_hours: Night\n", "after_hours is there already"),
    ],
)
async def test_a_bad_file_is_refused_whole(
    api: httpx.AsyncClient, content: bytes, says: str
) -> None:
    """Whatever was sent, the problem says where it is wrong, and nothing of it is stored."""
    for n, headers in enumerate(({}, {"Idempotency-Key": "once"})):
        answer = await api.put(FILE, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), n
        assert says in answer.json()["detail"]
    assert (await api.get("/v1/profiles")).json()["data"] == []


async def test_a_number_has_one_profile(api: httpx.AsyncClient, make: "Make") -> None:
    """Setting it again moves it, and the answer says from where; what is left out stays."""
    for name in ("Day", "Night"):
        await api.put(f"/v1/profiles/{name}", json=body(make))
    given = {"profile": "Day", "timezone": "Europe/Berlin", "label": "Main line"}
    made = await api.put(f"/v1/numbers/{OURS}", json=given)
    assert made.status_code == 201
    number = made.json()["number"]
    assert (number["region"], number["timezone"], number["profile"]) == (
        "US",
        "Europe/Berlin",
        "Day",
    )
    moved = await api.put("/v1/numbers/%2B12025550100", json={"profile": "Night"})
    assert moved.status_code == 200
    assert (moved.json()["created"], moved.json()["previous_profile"]) == (False, "Day")
    assert moved.json()["number"] == {**number, "profile": "Night"}
    cleared = await api.put(f"/v1/numbers/{OURS}", json={"profile": "Night", "timezone": None})
    assert cleared.json()["number"]["timezone"] is None
    assert (await api.get(f"/v1/numbers/{OURS}")).json()["label"] == "Main line"
    assert (await api.get("/v1/profiles/Night")).json()["numbers"] == 1
    assert (await api.delete(f"/v1/numbers/{OURS}")).status_code == 204
    assert (await api.delete(f"/v1/numbers/{OURS}")).status_code == 404


@pytest.mark.parametrize(
    ("number", "fields", "status", "says"),
    [
        (OURS, {"profile": "Nihgt"}, 404, "here is no profile 'Nihgt'; there are: 'Day'"),
        ("5550100", {"profile": "Day"}, 422, "write it with + and the country code"),
        (OURS, {"profile": "Day", "timezone": "Mars"}, 422, "'Mars' is no time zone"),
        (OURS, {"profile": "Day", "region": "USA"}, 422, "'USA' is no country"),
        ("+80012345678", {"profile": "Day"}, 422, "belongs to no country"),
        (OURS, {"profile": "Day", "colour": "red"}, 422, "body.colour"),
    ],
)
async def test_a_number_is_refused_in_words(
    api: httpx.AsyncClient,
    make: "Make",
    number: str,
    fields: dict[str, Any],
    status: int,
    says: str,
) -> None:
    """What cannot be is told with what would be right."""
    await api.put("/v1/profiles/Day", json=body(make))
    answer = await api.put(f"/v1/numbers/{number}", json=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert says in answer.json()["detail"]
    assert (await api.get("/v1/numbers")).json()["data"] == []


async def test_callers_are_blocked_and_put_through(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """A repeated request is done once, blocking again changes, and what is gone is not there."""
    once = {"Idempotency-Key": "k1"}
    asked = {"caller": "+44 90*", "reason": "advertising"}
    made = await api.post("/v1/blocked-callers", json=asked, headers=once)
    again = await api.post("/v1/blocked-callers", json=asked, headers=once)
    assert (made.status_code, again.status_code, again.json()) == (201, 201, made.json())
    assert again.headers["idempotent-replayed"] == "true"
    block = made.json()
    assert (block["caller"], block["action"]) == ("+4490*", "reject")
    until = (now + timedelta(days=1)).isoformat()
    changed = await api.post(
        "/v1/blocked-callers", json={**asked, "action": "message", "expires_at": until}
    )
    assert (changed.status_code, changed.json()["id"]) == (200, block["id"])
    for wrong, says in (
        ({"caller": "*"}, "is no beginning of a number"),
        ({"caller": "+4490*", "action": "drop"}, "body.action"),
        ({"caller": "+4490*", "expires_at": now.isoformat()}, "run out already"),
    ):
        answer = await api.post("/v1/blocked-callers", json=wrong)
        assert answer.status_code == 422
        assert says in answer.json()["detail"]
    async with db.look() as session:
        found = await queries.block_on(session, "+449012345678", now=now)
        assert found is not None
        assert found.action == "message"
    assert (await api.delete(f"/v1/blocked-callers/{block['id']}")).status_code == 204
    assert (await api.delete(f"/v1/blocked-callers/{block['id']}")).status_code == 404


async def test_lists_are_paged(api: httpx.AsyncClient, make: "Make") -> None:
    """Going from cursor to cursor shows each thing once; a cursor of another list is refused."""
    for n in range(3):
        await api.put(f"/v1/profiles/P{n}", json=body(make))
        await api.put(f"/v1/numbers/+1202555010{n}", json={"profile": f"P{n}"})
        await api.post("/v1/blocked-callers", json={"caller": f"+1202555011{n}"})
    for path, field, expected in (
        ("/v1/profiles", "name", {"P0", "P1", "P2"}),
        ("/v1/numbers", "number", {f"+1202555010{n}" for n in range(3)}),
        ("/v1/blocked-callers", "caller", {f"+1202555011{n}" for n in range(3)}),
    ):
        seen: list[str] = []
        cursor: str | None = None
        for size in (2, 1):
            query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await api.get(path, params=query)).json()
            assert len(page["data"]) == size
            seen += [one[field] for one in page["data"]]
            foreign, cursor = cursor, page["next_cursor"]
        assert (set(seen), len(seen), cursor) == (expected, 3, None), path
        for other in ("/v1/profiles", "/v1/numbers", "/v1/blocked-callers"):
            status = (await api.get(other, params={"cursor": foreign or ""})).status_code
            assert status == (200 if other == path else 422)


async def test_versions_are_paged(api: httpx.AsyncClient, make: "Make") -> None:
    """The latest first, each once; whoever says nothing gets all; a cursor of another profile shows nothing
    of it."""
    for n in range(5):
        await api.put("/v1/profiles/Day", json=body(make, limits={"max_calls": n + 1}))
    await api.put("/v1/profiles/Night", json=body(make))
    where = "/v1/profiles/Day/versions"
    whole = (await api.get(where)).json()
    assert ([one["version"] for one in whole["data"]], whole["next_cursor"]) == (
        [5, 4, 3, 2, 1],
        None,
    )
    seen: list[int] = []
    cursor: str | None = None
    for size in (2, 2, 1):
        page = (
            await api.get(where, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ).json()
        assert len(page["data"]) == size
        seen += [one["version"] for one in page["data"]]
        foreign, cursor = cursor, page["next_cursor"]
    assert (seen, cursor) == ([5, 4, 3, 2, 1], None)
    night = (await api.get("/v1/profiles/Night/versions", params={"cursor": foreign or ""})).json()
    assert night == {"data": [], "next_cursor": None}
    assert (await api.get(f"{where}?cursor=abc")).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/profiles", "profiles:read"),
        ("GET", "/v1/profiles/x/diff?before=1", "profiles:read"),
        ("PUT", "/v1/profiles/x", "profiles:write"),
        ("GET", "/v1/profiles/x/yaml", "profiles:read"),
        ("PUT", "/v1/profiles/x/yaml", "profiles:write"),
        ("GET", "/v1/numbers", "profiles:read"),
        ("PUT", "/v1/numbers/+12025550100", "profiles:write"),
        ("DELETE", "/v1/numbers/+12025550100", "profiles:write"),
        ("GET", "/v1/blocked-callers", "profiles:read"),
        ("POST", "/v1/blocked-callers", "profiles:write"),
        ("DELETE", "/v1/blocked-callers/blk_1", "profiles:write"),
    ],
)
async def test_each_needs_its_scope(
    api: httpx.AsyncClient, db: Database, now: datetime, method: str, path: str, scope: str
) -> None:
    """A key with all scopes but the one is refused by its name."""
    others = [each for each in access.KEY_SCOPES if each != scope]
    async with db.work() as session:
        _, token = await access.add_key(session, name="other", scopes=others, now=now)
    header = {"Authorization": f"Bearer {token}"}
    answer = await api.request(method, path, headers=header, json={})
    assert answer.status_code == 403
    assert scope in answer.json()["detail"]
