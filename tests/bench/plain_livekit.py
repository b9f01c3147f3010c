"""Baseline A: a plain livekit-agents agent, started as its own guides do ("Voice AI quickstart").

Its one argument is JSON: url, api_key, api_secret (LiveKit's), sandbox (a port), instructions, best, notes (a
folder for what it remembers of each call, ``<room>.json``).
With ``best`` it has what the documentation offers against latency: preemptive generation with speech, the
shortest endpointing that its guides show. The providers are the sandbox's, as for everybody in
this bench. Prints ``ready`` once LiveKit knows it.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from livekit.agents import Agent, AgentServer, AgentSession, JobContext
from livekit.plugins import cartesia, deepgram, openai

server = AgentServer(num_idle_processes=2, port=0, load_threshold=2.0)
ORDERS = "TRUNKLINE_BENCH_ORDERS"


def session(sandbox: int, *, best: bool) -> AgentSession[None]:
    root, key = f"http://127.0.0.1:{sandbox}", "sandbox"
    parts: dict[str, Any] = {
        "stt": deepgram.STT(model="nova-3", api_key=key, base_url=f"{root}/deepgram/v1/listen"),
        "llm": openai.LLM(model="gpt-4.1-mini", api_key=key, base_url=f"{root}/openai/v1"),
        "tts": cartesia.TTS(api_key=key, base_url=f"{root}/cartesia"),
    }
    if not best:
        return AgentSession(**parts)
    return AgentSession(
        **parts,
        aec_warmup_duration=None,
        turn_handling={
            "endpointing": {"min_delay": 0.3, "max_delay": 0.6},
            "preemptive_generation": {"enabled": True, "preemptive_tts": True},
        },
    )


@server.rtc_session(agent_name="plain")
async def entry(ctx: JobContext) -> None:
    """One call."""
    orders = json.loads(os.environ[ORDERS])
    live = session(orders["sandbox"], best=orders["best"])

    async def note() -> None:
        path = Path(orders["notes"]) / f"{ctx.room.name}.json"
        path.write_text(json.dumps(live.history.to_dict()["items"]), encoding="utf-8")

    ctx.add_shutdown_callback(note)
    await live.start(room=ctx.room, agent=Agent(instructions=orders["instructions"]))
    await live.say("Hello, this is Harbor Fiber. How can I help you?")


async def main(orders: str) -> None:
    """Run until killed."""
    os.environ[ORDERS] = orders
    told = json.loads(orders)
    server.update_options(
        ws_url=told["url"], api_key=told["api_key"], api_secret=told["api_secret"]
    )
    server.on("worker_registered", lambda *_: print("ready 0", flush=True))
    await server.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
