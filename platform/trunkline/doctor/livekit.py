"""LiveKit as a call needs it: reachable, with Redis, with workers, and telling us of its rooms."""

import asyncio
import uuid
from dataclasses import replace
from datetime import timedelta
from email.utils import parsedate_to_datetime

import httpx

from trunkline.desk.sip import AGENT, RESCUE
from trunkline.doctor.house import told_time
from trunkline.doctor.report import Finding, Findings
from trunkline.kit.clock import Clock
from trunkline.kit.http import in_words
from trunkline.kit.livekit import PROBE_ROOM, LiveKit, LiveKitFailed
from trunkline.settings import Settings

PATIENCE = timedelta(seconds=4)
"""Of one request to LiveKit."""

WORKER_PATIENCE = timedelta(seconds=6.5)
"""How long a worker may take to show; LiveKit itself collects for 5 s who is there."""

WEBHOOK_PATIENCE = timedelta(seconds=4)
"""How long the news of a room may take from LiveKit to web."""

AGENTS = {
    AGENT: "answers the calls",
    RESCUE: "answers when the others are full or the providers fail",
}


def is_cloud(url: str) -> bool:
    """Whether *url* is LiveKit's own service instead of a server of ours."""
    host = httpx.URL(url.replace("ws", "http", 1)).host if "://" in url else ""
    return host.endswith(".livekit.cloud")


def leaves_the_house(settings: Settings) -> Findings:
    """What LiveKit Cloud gets to see; nothing is found where LiveKit is our own."""
    if not settings.livekit_url or not is_cloud(settings.livekit_url):
        return []
    return [
        Finding(
            "settings",
            "LiveKit Cloud",
            None,
            "what leaves the house: the sound of every call, callers' and dialled numbers, SIP headers, "
            "room names, and everything that `sip apply` stores (trunks with their passwords); transcripts, "
            "recordings, the CRM and webhooks stay here",
            "infra/livekit.yaml and sip/livekit-sip.yaml are not used then: TRUNKLINE_SIP_HOST is the "
            "project's SIP address, and its webhooks are set in the project's settings, to a public "
            "https address of trunkline web, /livekit/webhook",
        )
    ]


async def reachable(livekit: LiveKit) -> Findings:
    """Whether it answers and takes our key."""
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await livekit.rooms("trunkline-doctor")
    except TimeoutError:
        says = f"{livekit.url} did not answer within {PATIENCE.total_seconds():.0f} s"
        return [Finding("livekit", "reachable", False, says, "is LIVEKIT_URL right?")]
    except LiveKitFailed as error:
        found = Finding.wrong("livekit", "reachable", error)
        # What it says of itself: mostly that its Redis is gone.
        told = "livekit-server's log says more; is the Redis behind it running?"
        return [found if found.fix else replace(found, fix=told)]
    return [Finding("livekit", "reachable", True, f"{livekit.url} answers and takes our key")]


async def telephony(livekit: LiveKit) -> Findings:
    """Whether it keeps trunks, for which it needs Redis."""
    try:
        stored = await livekit.stored()
    except LiveKitFailed as error:
        return [Finding.wrong("livekit", "Redis behind it", error)]
    said = f"it keeps {len(stored)} trunks and rules"
    return [Finding("livekit", "Redis behind it", True, said)]


async def worker(livekit: LiveKit, agent: str) -> Findings:
    """Whether somebody comes when *agent* is sent for."""
    what = f"worker {agent}"
    try:
        there = await livekit.answers(agent, patience=WORKER_PATIENCE)
    except LiveKitFailed as error:
        return [Finding.wrong("livekit", what, error)]
    if there:
        return [Finding("livekit", what, True, f"registered and free; it {AGENTS[agent]}")]
    says = "none is registered and free: its callers would hear ringing"
    return [Finding("livekit", what, False, says, "start it: trunkline worker")]


async def clock_of(client: httpx.AsyncClient, url: str, clock: Clock) -> Findings:
    """Whether its machine and this one agree on the time, by the Date of its answers."""
    what = "clock of LiveKit"
    try:
        answer = await client.get(url.replace("ws", "http", 1), timeout=PATIENCE.total_seconds())
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
    except (httpx.HTTPError, ValueError) as error:
        why = in_words(error) if isinstance(error, httpx.HTTPError) else "it tells no time"
        return [Finding("livekit", what, None, f"not known: {why}")]
    return [told_time("livekit", what, theirs, clock())]


async def webhooks(client: httpx.AsyncClient, livekit: LiveKit, settings: Settings) -> Findings:
    """Whether what happens in a room is told to web: makes a room and asks web whether it heard of it."""
    what = "webhooks to web"
    host = settings.trunkline_host
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    web = f"http://{f'[{here}]' if ':' in here else here}:{settings.trunkline_port}"
    room = f"{PROBE_ROOM}{uuid.uuid4().hex}"
    heard = False
    try:
        await livekit.open_room(room)
        async with asyncio.timeout(WEBHOOK_PATIENCE.total_seconds()):
            while not heard:
                answer = await client.get(f"{web}/livekit/probe/{room}")
                answer.raise_for_status()
                heard = answer.json()["seen"]
                await asyncio.sleep(0 if heard else 0.1)
    except LiveKitFailed as error:
        return [Finding.wrong("livekit", what, error)]
    except (httpx.HTTPError, ValueError, KeyError):
        return [Finding("livekit", what, None, f"web does not answer at {web}, see processes")]
    except TimeoutError:
        fix = (
            f"livekit.yaml needs webhook: {{api_key: {settings.livekit_api_key}, "
            f"urls: [{web}/livekit/webhook]}}, an address that livekit-server reaches"
        )
        says = "web heard nothing of a room that was just made: calls nobody took would go unseen"
        return [Finding("livekit", what, False, says, fix)]
    finally:
        await livekit.delete_room(room)
    return [Finding("livekit", what, True, f"{web} heard of a room that was just made")]
