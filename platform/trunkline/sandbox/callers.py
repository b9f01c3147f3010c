"""The process that places the demo's calls: simulated callers, and the agent with loopback lines.

Reads its orders from one JSON argument, prints ``ready`` once everything heavy is loaded, then a
JSON line per call: ``{"ringing": …}`` and ``{"over": …}``.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from livekit.agents.utils import http_context

from trunkline.agent.arrival import Arrival
from trunkline.agent.options import AgentOptions, ProviderAccess
from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.agent.worker import Outcome, answer
from trunkline.kit import log
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import die_with_parent
from trunkline.sandbox.caller import Caller
from trunkline.sandbox.loopback import LoopbackLine
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.story import OUR_NUMBER, STORIES, Story


@dataclass(frozen=True)
class Orders:
    """What one run of callers is to do. ``stories`` are keys, in order."""

    database_url: str
    blobs_url: str
    sandbox_port: int
    sandbox_key: str
    stories: tuple[str, ...]
    run: str
    """Part of the rooms' names, so that they are unique over runs."""
    to_raw: str = OUR_NUMBER
    log_level: str = "warning"
    livekit: dict[str, str] | None = None
    """``url``, ``api_key``, ``api_secret``: the calls go through rooms there, to a worker; None: loopback
    lines, and the agent is in this process."""

    def dump(self) -> str:
        """As the one argument of this module's process."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> "Orders":
        data = json.loads(text)
        return cls(**{**data, "stories": tuple(data["stories"])})


WORD_AFTER = timedelta(milliseconds=1450)
"""Offline ears need some 400 ms more than a provider's: not every answer is to begin with "One moment."."""


def sandbox_providers(port: int, key: str) -> AgentOptions:
    """The agent's options when its providers are the sandbox's on *port*, with its offline ears."""
    root = f"http://127.0.0.1:{port}"
    return AgentOptions(
        deepgram=ProviderAccess(key, f"{root}/deepgram/v1/listen"),
        openai=ProviderAccess(key, f"{root}/openai/v1"),
        cartesia=ProviderAccess(key, f"{root}/cartesia"),
        word_after=WORD_AFTER,
    )


async def place(story: Story, services: Services, *, room: str, to_raw: str) -> dict[str, Any]:
    """Let *story*'s caller call *to_raw*; returns how it went as JSON-ready values."""
    caller = Caller(story.steps)
    line = LoopbackLine(
        Arrival(room=room, channel="loopback", from_raw=story.from_raw, to_raw=to_raw), caller
    )
    options = replace(services.options, tool_delays=dict(story.tool_delays))
    line.ring()
    async with http_context.open():
        outcome: Outcome = await answer(line, replace(services, options=options))
    return {
        "story": story.key,
        "call_id": outcome.call_id,
        "end_reason": outcome.reason.value,
        "failure": str(outcome.failure) if outcome.failure else None,
        "gave_up": repr(caller.gave_up) if caller.gave_up else None,
        "caller": caller.notes,
        "worst_lag_ms": round(line.worst_lag_s * 1000),
    }


async def place_in_room(
    story: Story, options: LiveKitOptions, *, room: str, to_raw: str
) -> dict[str, Any]:
    """As ``place``, through a LiveKit room; what became of the call its worker stores."""
    caller = Caller(story.steps)
    dial = Dial(room, from_raw=story.from_raw, to_raw=to_raw, number=to_raw)
    call = SipCall(options, dial, caller)
    over = await call.run()
    return {
        "story": story.key,
        "call_id": None,
        "end_reason": over.how,
        "failure": "the line was lost" if over.how == "lost" else None,
        "gave_up": repr(caller.gave_up) if caller.gave_up else None,
        "caller": caller.notes,
        "worst_lag_ms": round(call.worst_lag_s * 1000),
        "rang_ms": over.rang_ms,
        "first_sound_ms": over.first_sound_ms,
    }


async def run(orders: Orders) -> None:
    """Place the calls one after another."""
    if orders.livekit is not None:
        # The native library tells of each room that the agent deletes as three errors.
        logging.getLogger("livekit").setLevel(logging.CRITICAL)
        asked = orders.livekit
        livekit = LiveKitOptions(asked["url"], asked["api_key"], asked["api_secret"])
        _tell("ready")
        for story, room in _to_place(orders):
            _tell(
                json.dumps(
                    {"over": await place_in_room(story, livekit, room=room, to_raw=orders.to_raw)}
                )
            )
        return
    db = open_database(DatabaseOptions(orders.database_url))
    services = Services(
        db=db,
        blobs=open_blobs(BlobOptions(orders.blobs_url)),
        options=sandbox_providers(orders.sandbox_port, orders.sandbox_key),
        clock=utc_now,
    )
    await warm()
    _tell("ready")
    for story, room in _to_place(orders):
        over = await place(story, services, room=room, to_raw=orders.to_raw)
        _tell(json.dumps({"over": over}))
    await db.close()


def _to_place(orders: Orders) -> Iterator[tuple[Story, str]]:
    """Each call's story and room, told as ringing when it is taken."""
    for story in (s for key in orders.stories for s in STORIES if s.key == key):
        room = f"demo-{orders.run}-{story.key}"
        _tell(json.dumps({"ringing": {"story": story.key, "room": room}}))
        yield story, room


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is how the parent hears of it


def main(arguments: Sequence[str]) -> int:
    """Entry of the process. Returns the exit code."""
    die_with_parent()
    # The session would otherwise look for LiveKit's cloud when it finds these.
    os.environ.pop("LIVEKIT_URL", None)
    orders = Orders.load(arguments[0])
    log.configure("console", orders.log_level)
    asyncio.run(run(orders))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
