"""``trunkline sip plan|apply|show`` and ``route`` against a real livekit-server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.errors import Unavailable
from trunkline.kit.db import Database
from trunkline.kit.livekit import PROBE, LiveKit, LiveKitFailed
from trunkline.trunks import commands
from trunkline.trunks.options import TrunkOptions
from trunkline.trunks.plan import mark

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.stack.conftest import LiveKitServer

N1, N2 = "+12025550101", "+12025550102"
CALLER = "+12025550134"
FOREIGN = {"name": "old line", "numbers": ["+4930123456"], "metadata": "somebody's"}


@pytest.fixture
def options(livekit_server: "LiveKitServer", sip_folder: Path) -> TrunkOptions:
    """Settings as an operator would have them, with the outbound line set up."""
    return TrunkOptions(
        folder=sip_folder,
        livekit_url=livekit_server.url,
        livekit_api_key=livekit_server.api_key,
        livekit_api_secret=livekit_server.api_secret,
        environment={
            "TRUNKLINE_OUTBOUND_ADDRESS": "us.pstn.twilio.com",
            "TRUNKLINE_OUTBOUND_USERNAME": "us",
            "TRUNKLINE_OUTBOUND_PASSWORD": "hunter2",
        },
    )


@pytest.fixture
async def db(sqlite_db: Database, make: "Make") -> Database:
    """A profile that answers two numbers."""
    async with sqlite_db.work() as session:
        await make.profile(session, name="Front desk", number=N1)
        await make.profile(session, name="Support", number=N2)
    return sqlite_db


@pytest.mark.usefixtures("livekit")
async def test_a_fresh_server(options: TrunkOptions, db: Database, livekit: LiveKit) -> None:
    """plan lists what would be made and makes nothing; apply makes it; then plan says nothing to do."""
    told = await commands.sip_plan(options, db)
    assert [(step["action"], step["kind"], step["name"]) for step in told.data["steps"]] == [
        ("create", "inbound", "twilio"),
        ("create", "outbound", "outbound"),
        ("create", "rule", N1),
        ("create", "rule", N2),
    ]
    assert told.ok
    assert await livekit.stored() == []

    said: list[str] = []
    applied = await commands.sip_apply(options, db, said.append)
    assert len(applied.data["done"]) == len(said) == 4

    again = await commands.sip_plan(options, db)
    assert again.data["steps"] == []
    assert again.lines[0].endswith("nothing to do.")
    assert (await commands.sip_apply(options, db)).data["done"] == []


async def test_what_livekit_then_holds(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """The trunk has our numbers; each rule is on that trunk only, with agent and attribute."""
    await commands.sip_apply(options, db)
    stored = {one.name: one for one in await livekit.stored()}
    trunk, rule = stored["trunkline twilio"], stored[f"trunkline {N1}"]
    assert trunk.body["numbers"] == [N1, N2]
    assert trunk.body["ringing_timeout"] == "45s"
    assert rule.body["trunk_ids"] == [trunk.id]
    assert rule.body["numbers"] == [N1]
    assert rule.body["attributes"] == {"trunkline.number": N1}
    assert rule.body["rule"] == {"dispatch_rule_callee": {"room_prefix": "call", "randomize": True}}
    assert [agent["agent_name"] for agent in rule.body["room_config"]["agents"]] == ["trunkline"]


async def test_a_trunk_that_was_changed_by_hand(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """plan shows just that drift, field by field; apply repairs it."""
    await commands.sip_apply(options, db)
    trunk = next(one for one in await livekit.stored() if one.kind == "inbound")
    by_hand = {**trunk.body, "numbers": [N1], "krisp_enabled": True}
    del by_hand["ringing_timeout"]
    await livekit.replace("inbound", trunk.id, by_hand)

    told = await commands.sip_plan(options, db)
    (step,) = told.data["steps"]
    assert (step["action"], step["name"], step["id"]) == ("update", "twilio", trunk.id)
    assert step["differences"] == [
        {"field": "krisp_enabled", "have": True, "want": None},
        {"field": "numbers", "have": [N1], "want": [N1, N2]},
        {"field": "ringing_timeout", "have": None, "want": "45s"},
    ]
    assert f"      numbers: {N1} → {N1}, {N2}" in told.lines

    await commands.sip_apply(options, db)
    assert (await commands.sip_plan(options, db)).data["steps"] == []
    assert next(one for one in await livekit.stored() if one.kind == "inbound").body == trunk.body


async def test_a_rule_that_was_deleted_by_hand_comes_back(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """Only the rule is made; the trunk it names keeps its id."""
    await commands.sip_apply(options, db)
    rule = next(one for one in await livekit.stored() if one.name == f"trunkline {N2}")
    await livekit.delete("rule", rule.id)
    applied = await commands.sip_apply(options, db)
    assert [(step["action"], step["name"]) for step in applied.data["done"]] == [("create", N2)]


async def test_a_number_that_moves_to_another_carrier(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """LiveKit refuses a number on two trunks; apply takes it off the old one first."""
    await commands.sip_apply(options, db)
    telnyx = options.folder / "trunks" / "telnyx.yaml"
    text = telnyx.read_text(encoding="utf-8")
    telnyx.write_text(text.replace("numbers: []", f"numbers: ['{N2}']"), encoding="utf-8")
    await commands.sip_apply(options, db)
    assert {
        one.name: one.body["numbers"] for one in await livekit.stored() if one.kind == "inbound"
    } == {"trunkline twilio": [N1], "trunkline telnyx": [N2]}
    assert (await commands.sip_plan(options, db)).data["steps"] == []


class CutShort(LiveKit):
    """Goes away after so many writes, the last of which was done though its answer never came."""

    writes_left = 0

    async def create(self, kind: Any, body: Any) -> str:
        made = await super().create(kind, body)
        self._count()
        return made

    async def replace(self, kind: Any, id: str, body: Any) -> None:
        await super().replace(kind, id, body)
        self._count()

    def _count(self) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise LiveKitFailed("the line was cut", reached=False)


@pytest.mark.parametrize("writes", range(4))
async def test_an_apply_that_was_cut_short(
    options: TrunkOptions,
    db: Database,
    livekit: LiveKit,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """Wherever it stops, it says so, and the next apply finishes without making anything twice."""

    @contextlib.asynccontextmanager
    async def failing(_: object) -> AsyncIterator[LiveKit]:
        cut = CutShort(livekit._client, livekit._options)
        cut.writes_left = writes
        yield cut

    with monkeypatch.context() as patch:
        patch.setattr(commands, "open_livekit", failing)
        with pytest.raises(Unavailable, match="the line was cut"):
            await commands.sip_apply(options, db)
    await commands.sip_apply(options, db)
    assert (await commands.sip_plan(options, db)).data["steps"] == []
    assert len(await livekit.stored()) == 4


async def test_what_is_not_ours_stays(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """Trunks and rules without our mark are shown as not ours and are the same after any apply."""
    ids = [
        await livekit.create("inbound", FOREIGN),
        await livekit.create("outbound", {**FOREIGN, "address": "sip.example"}),
    ]
    await livekit.create(
        "rule", {"name": "lobby", "trunk_ids": ids[:1], "rule": {"dispatch_rule_individual": {}}}
    )
    before = await livekit.stored()
    await commands.sip_apply(options, db)
    for path in options.folder.glob("*/*.yaml"):  # and when nothing of ours is wanted any more
        path.unlink()
    await commands.sip_apply(options, db)
    assert await livekit.stored() == before
    shown = (await commands.sip_show(options)).data["stored"]
    assert [one["ours"] for one in shown] == [False, False, False]


async def test_a_number_on_somebody_elses_trunk(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """plan and apply say whose it is and are not ok; nothing is changed."""
    id = await livekit.create("inbound", {**FOREIGN, "numbers": [N1]})
    for told in (await commands.sip_plan(options, db), await commands.sip_apply(options, db)):
        assert not told.ok
        assert told.data["conflicts"] == [
            f"{N1} is also on the trunk {id} (old line), which is not ours; take it off there"
        ]
    assert [one.id for one in await livekit.stored()] == [id]


async def test_show_tells_all_of_it_but_no_secret(
    options: TrunkOptions, db: Database, livekit: LiveKit
) -> None:
    """Ours and other people's, with the password hidden in words and in data."""
    await commands.sip_apply(options, db)
    told = await commands.sip_show(options)
    assert len(told.data["stored"]) == len(await livekit.stored()) == 4
    assert "hunter2" not in repr(told)
    assert "hunter2" not in repr(await commands.sip_plan(options, db))


# --- when LiveKit is not as it should be ----------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"livekit_url": "ws://127.0.0.1:1"},
            "LiveKit at ws://127.0.0.1:1 cannot be reached (Connect call failed ('127.0.0.1', 1)); is "
            "livekit-server running, and is LIVEKIT_URL right?",
        ),
        (
            {"livekit_api_secret": "another-secret-that-is-long-enough-to-sign"},
            "does not accept the key 'devkey' (status 401); LIVEKIT_API_KEY and LIVEKIT_API_SECRET must "
            "be a pair that its livekit.yaml lists under keys",
        ),
        ({"livekit_api_key": "nobody"}, "does not accept the key 'nobody'"),
        ({"livekit_url": "127.0.0.1:7880"}, "is no address; write it like ws://127.0.0.1:7880"),
    ],
)
async def test_livekit_unreachable_or_with_a_wrong_key(
    options: TrunkOptions, db: Database, wrong: dict[str, Any], says: str
) -> None:
    """One sentence that says what to do; the command line makes exit code 1 of it."""
    with pytest.raises(Unavailable) as raised:
        await commands.sip_plan(replace(options, **wrong), db)
    assert says in str(raised.value)


async def test_livekit_without_redis(
    options: TrunkOptions, db: Database, lonely_livekit_server: "LiveKitServer"
) -> None:
    """It would keep no trunk; what is missing is said, and where it is set."""
    with pytest.raises(Unavailable, match=r"runs without Redis .* set redis\.address"):
        await commands.sip_plan(replace(options, livekit_url=lonely_livekit_server.url), db)


async def test_rooms_and_dispatches(livekit: LiveKit) -> None:
    """A dispatch makes its room and is listed there; of a room that is gone nothing is an error."""
    dispatch = await livekit.dispatch("lobby", "trunkline", metadata="{}")
    assert [room.name for room in await livekit.rooms("lobby", "other")] == ["lobby"]
    assert dispatch in [one.id for one in await livekit.dispatches("lobby")]
    assert await livekit.participants("lobby") == []
    for _ in range(2):
        await livekit.delete_room("lobby")
    assert await livekit.rooms() == []
    assert await livekit.dispatches("lobby") == []
    assert await livekit.participants("lobby") == []
    await livekit.remove_participant("lobby", "nobody")


# --- route ----------------------------------------------------------------------------------------


@pytest.fixture
async def worker(livekit_server: "LiveKitServer") -> AsyncIterator[list[str]]:
    """A registered worker for the agent ``trunkline``; the list holds the rooms it was really sent to."""
    from livekit.agents import AgentServer, JobContext, JobExecutorType, JobRequest

    server = AgentServer(
        ws_url=livekit_server.url,
        api_key=livekit_server.api_key,
        api_secret=livekit_server.api_secret,
        job_executor_type=JobExecutorType.THREAD,
        num_idle_processes=0,
        load_fnc=lambda: 0.0,
        port=0,
    )
    started: list[str] = []

    async def on_request(request: JobRequest) -> None:
        if request.job.metadata != PROBE:
            started.append(request.room.name)
        await request.reject()

    async def entry(_: JobContext) -> None:
        raise AssertionError("every request is rejected")

    server.rtc_session(entry, agent_name="trunkline", on_request=on_request)
    registered = asyncio.Event()
    server.once("worker_registered", lambda *_: registered.set())
    running = asyncio.create_task(server.run())
    try:
        await asyncio.wait_for(registered.wait(), 120)
        yield started
    finally:
        await server.aclose()
        await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 120)


async def test_a_call_that_would_be_answered(
    options: TrunkOptions,
    db: Database,
    livekit: LiveKit,
    worker: list[str],
    now: datetime,
) -> None:
    """Trunk, rule, worker, profile and hours are named; asking starts no job and leaves no room."""
    await commands.sip_apply(options, db)
    told = await commands.route(options, db, N1, caller=CALLER, offline=False, now=now)
    assert told.ok
    assert [(finding["part"], finding["ok"]) for finding in told.data["findings"]] == [
        ("trunk", True),
        ("rule", True),
        ("agent", True),
        ("worker", True),
        ("profile", True),
        ("hours", True),
    ]
    assert told.lines[-1] == "It would be answered."
    assert "'Front desk', version 1" in told.lines[5]
    assert worker == []
    assert await livekit.rooms() == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("+12025550199", "no trunk lists +12025550199"),
        (N1[1:], "LiveKit's rules compare letter by letter, and the + differs"),
        (N1, "no worker for 'trunkline' is registered and free"),
        (N2, "is for another trunk"),
    ],
)
async def test_why_it_would_ring_for_ever(
    options: TrunkOptions,
    db: Database,
    livekit: LiveKit,
    now: datetime,
    number: str,
    reason: str,
) -> None:
    """Number on no trunk, wrong +, no worker registered, rule for another trunk: each in words."""
    await commands.sip_apply(options, db)
    rule = next(one for one in await livekit.stored() if one.name == f"trunkline {N2}")
    await livekit.replace("rule", rule.id, {**rule.body, "trunk_ids": ["ST_gone"]})
    told = await commands.route(options, db, number, caller=CALLER, offline=False, now=now)
    assert not told.ok
    assert told.data["rings_for_ever"]
    assert reason in told.data["reason"]
    assert f"It would ring for ever: {told.data['reason']}." in told.lines
    assert await livekit.rooms() == []


async def test_route_offline_reads_the_files(
    options: TrunkOptions, db: Database, now: datetime
) -> None:
    """It says that it did, asks LiveKit nothing, and leaves the worker an open question."""
    away = replace(options, livekit_url="ws://127.0.0.1:1")
    told = await commands.route(away, db, N1, caller=None, offline=True, now=now)
    assert told.ok
    assert told.data["source"] == f"the files in {options.folder}"
    assert [f["ok"] for f in told.data["findings"] if f["part"] == "worker"] == [None]


async def test_our_mark_is_what_livekit_gives_back(livekit: LiveKit) -> None:
    """Metadata comes back as it was written, which is all that ownership rests on."""
    await livekit.create("inbound", {**FOREIGN, "metadata": mark("x")})
    assert [one.body["metadata"] for one in await livekit.stored()] == [mark("x")]
