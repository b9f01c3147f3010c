"""The demo as a newcomer runs it: a process, five calls, a document."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from trunkline.kit.audio import read_wav, silence_after_barge_in, sounds

DEMO = (sys.executable, "-m", "trunkline", "demo", "--port", "0")
SILENT_WITHIN_MS = 800


@dataclass(frozen=True)
class Run:
    """One finished run of the demo."""

    document: dict[str, Any]
    talk: str
    code: int
    data: Path

    def call(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.document["calls"]["abcde".index(key)]
        return found


async def _run(data: Path) -> Run:
    process = await asyncio.create_subprocess_exec(
        *DEMO, "--once", "--json", "--data", str(data),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 400)
    assert process.returncode is not None
    try:
        document = json.loads(out)
    except ValueError:
        pytest.fail(f"no document; the demo said:\n{err.decode()}")
    return Run(document, err.decode(), process.returncode, data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The demo, run twice on the same folder."""
    data = tmp_path_factory.mktemp("demo")

    async def both() -> tuple[Run, Run]:
        return await _run(data), await _run(data)

    return asyncio.run(both())


def test_all_calls_end_as_they_should(runs: tuple[Run, Run]) -> None:
    """Five calls, each ended, each for its reason; nobody waited in vain."""
    run = runs[0]
    assert run.code == 0, run.talk
    assert [(c["state"], c["end_reason"]) for c in run.document["calls"]] == [
        ("ended", "agent_hangup"),
        ("ended", "agent_hangup"),
        ("ended", "agent_hangup"),
        ("ended", "agent_hangup"),
        ("ended", "caller_hangup"),
    ]


def test_a_known_customer_goes_ahead(runs: tuple[Run, Run]) -> None:
    """(a) The deal is moved, a note is written, it is confirmed, and all of it delivered, signed."""
    call = runs[0].call("a")
    assert call["contact"] == "Dana Whitfield"
    assert call["turns"][0]["text"].startswith("Hello Dana")
    changes = {(c["entity"], c["field"]): (c["before"], c["after"]) for c in call["changes"]}
    assert changes["deal", "stage"] == ("proposal", "won")
    assert ("activity", "*") in changes
    assert any("bigger plan" in turn["text"] for turn in call["turns"] if turn["role"] == "agent")
    events = [delivery["event"] for delivery in call["deliveries"]]
    assert {"call.started", "contact.matched", "deal.updated", "call.ended", "recording.ready"} <= (
        set(events)
    )
    assert all(d["verified"] and d["status"] == 200 for d in call["deliveries"])


def test_an_unknown_caller_leaves_a_message(runs: tuple[Run, Run]) -> None:
    """(b) A contact is created, the message kept, the call back due."""
    call = runs[0].call("b")
    assert call["contact"] == "Peter Novak"
    made = [c["after"] for c in call["changes"] if c["field"] == "*"]
    assert next(c["entity"] for c in call["changes"] if c["field"] == "*") == "contact"
    assert {one.get("kind") for one in made} >= {"note", "task"}
    assert any("down since monday" in str(one.get("summary")).lower() for one in made)


def test_keys_alone_get_a_call_back(runs: tuple[Run, Run]) -> None:
    """(c) The model sees the keys as a turn, and books the call back."""
    call = runs[0].call("c")
    assert "[keys 2]" in [turn["text"] for turn in call["turns"] if turn["role"] == "user"]
    assert {"name": "request_callback", "ok": True} in [
        {"name": run["name"], "ok": run["ok"]} for run in call["tool_runs"]
    ]


def test_a_caller_breaks_in(runs: tuple[Run, Run]) -> None:
    """(d) The agent stops, the unheard half is in no transcript, and the new question is answered."""
    call = runs[1].call("d")
    (cut,) = [turn for turn in call["turns"] if turn["interrupted"]]
    assert cut["role"] == "agent"
    assert "bigger plan" not in cut["text"]
    after = call["turns"][call["turns"].index(cut) + 1 :]
    assert any("nine to five" in turn["text"].lower() for turn in after)
    samples, rate = read_wav(Path(call["recording"]).read_bytes())
    stops = silence_after_barge_in(sounds(samples[:, 0], rate), sounds(samples[:, 1], rate))
    assert len(stops) == 1
    assert stops[0] <= SILENT_WITHIN_MS


def test_hanging_up_in_a_tool_loses_nothing(runs: tuple[Run, Run]) -> None:
    """(e) The call back is booked exactly once although nobody was there to hear it."""
    call = runs[0].call("e")
    assert [(run["name"], run["ok"]) for run in call["tool_runs"]] == [("request_callback", True)]
    tasks = [c for c in call["changes"] if c["entity"] == "activity"]
    assert len(tasks) == 1
    assert call["tool_runs"][0]["ms"] >= 2000


@pytest.mark.parametrize("key", "abcde")
def test_recordings_are_stereo(key: str, runs: tuple[Run, Run]) -> None:
    """Two channels; the agent is on the right, and the caller, unless silent, on the left."""
    path = Path(runs[1].call(key)["recording"])  # the first run's are set aside
    with wave.open(str(path)) as file:
        assert file.getnchannels() == 2
    samples, rate = read_wav(path.read_bytes())
    assert sounds(samples[:, 1], rate)
    assert bool(sounds(samples[:, 0], rate)) == (key != "c")


@pytest.mark.parametrize("key", "abcd")
def test_the_goodbye_is_heard_to_its_last_syllable(key: str, runs: tuple[Run, Run]) -> None:
    """The agent's last words are whole, and silence follows them before the line is hung up."""
    last = runs[1].call(key)["turns"][-1]
    assert last["role"] == "agent"
    assert last["text"].endswith("Goodbye.")
    assert not last["interrupted"]
    samples, rate = read_wav(Path(runs[1].call(key)["recording"]).read_bytes())
    length_ms = len(samples) * 1000 / rate
    assert sounds(samples[:, 1], rate)[-1].end_ms <= length_ms - 100


def test_twice_the_same_document(runs: tuple[Run, Run]) -> None:
    """A second run on the same folder tells the same, but for ids, paths and times, and but for what is
    said when an answer takes a long time."""

    def plain(document: dict[str, Any]) -> list[Any]:
        return [
            {
                **{key: call[key] for key in ("state", "end_reason", "contact", "deliveries")},
                "turns": [
                    (t["role"], t["text"].removeprefix("One moment. "), t["interrupted"])
                    for t in call["turns"]
                ],
                "tool_runs": [(run["name"], run["ok"]) for run in call["tool_runs"]],
                "changes": [(c["entity"], c["field"]) for c in call["changes"]],
            }
            for call in document["calls"]
        ]

    first, second = (plain(run.document) for run in runs)
    assert first == second


def test_the_first_run_is_kept(runs: tuple[Run, Run]) -> None:
    """Running again loses nothing: the earlier run is set aside."""
    assert len(list((runs[1].data / "earlier").glob("*/trunkline.db"))) == 1


def test_the_past_lies_beside(runs: tuple[Run, Run]) -> None:
    """40 calls of the past are stored beside the five, all marked as tests; the document has none of them."""
    with contextlib.closing(sqlite3.connect(runs[1].data / "trunkline.db")) as database:
        stored = database.execute("SELECT id, room, test FROM calls").fetchall()
        past = {id_ for id_, room, _ in stored if room.startswith(("demo-past-", "out_"))}
        told = {row[0] for row in database.execute("SELECT DISTINCT subject FROM deliveries d "
                "JOIN endpoints e ON e.id = d.endpoint_id WHERE e.enabled")}  # fmt: skip
    assert (len(stored), len(past)) == (45, 40)
    assert all(test for *_, test in stored)
    ids = {call["id"] for call in runs[1].document["calls"]}
    assert ids == {id_ for id_, *_ in stored} - past
    assert not told & past


def test_the_talk_shows_it_all(runs: tuple[Run, Run]) -> None:
    """Ringing, who calls, turns, tools, changes, deliveries, the recording and the dashboard."""
    talk = runs[0].talk
    for said in (
        "ringing    +1 202-555-0134",
        "caller     Dana Whitfield",
        "tool   move_deal",
        "deal Office Fiber: stage proposal → won",
        "webhook deal.updated → 200, signature verified",
        "recording  /",
        "Dashboard: http://127.0.0.1:",
        "(interrupted)",
    ):
        assert said in talk, f"{said!r} is not in:\n{talk}"


async def test_killed_in_mid_call(tmp_path: Path) -> None:
    """After kill -9 no child is left; ``serve`` finds the turns so far and closes the call."""
    demo = await asyncio.create_subprocess_exec(
        *DEMO, "--once", "--calls", "d", "--data", str(tmp_path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert demo.stderr is not None
    heard = b""
    while b"caller What plans" not in heard:
        line = await asyncio.wait_for(demo.stderr.readline(), 90)
        assert line, f"the demo ended early:\n{heard.decode()}"
        heard += line
    demo.send_signal(signal.SIGKILL)
    await demo.wait()
    # Every process of the demo holds this pipe; it ends when the last of them is gone.
    await asyncio.wait_for(demo.stderr.read(), 60)

    serve = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "serve", "--data", str(tmp_path), "--port", "0",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "TRUNKLINE_LOGIN": "off"},
    )  # fmt: skip
    try:
        assert serve.stdout is not None
        ready = await asyncio.wait_for(serve.stdout.readline(), 60)
        address = f"http://127.0.0.1:{int(ready.split()[1])}"
        page = await _closed(address)
    finally:
        serve.terminate()
        await serve.wait()
    assert "What plans do you have" in page
    assert "Hello James" in page


async def _closed(address: str) -> str:
    """The call's page once the guardian has closed it."""
    async with httpx.AsyncClient(base_url=address, timeout=5) as client, asyncio.timeout(60):
        listed = (await client.get("/calls")).text
        path = listed.split('href="/calls/call_')[1].split('"')[0]
        while True:
            page = (await client.get(f"/calls/call_{path}")).text
            if "agent_lost" in page:
                return page
            await asyncio.sleep(0.1)  # pace: the guardian's own rounds
