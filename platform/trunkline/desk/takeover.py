"""An agent died with its caller still on the line: another one is sent into the same room.

livekit-sip keeps the caller in the room, in silence, for ever, and LiveKit never sends a second agent by
itself. The worker that sees its process die sends one at once; the guardian does it for a machine that is
gone as a whole. The agent that comes takes the call's lease and goes on from what is stored.
"""

from collections.abc import Mapping, Sequence

from trunkline.desk import sip
from trunkline.kit.livekit import CONSULT_ROOM, Dispatch, LiveKit

AGENT_PREFIX, RESCUE_PREFIX = "agent-", "rescue-"
"""How the identities of our agents begin; the job's id follows."""

MOST_AGENTS = 4
"""Agents that one call may have. A call that has killed that many would kill the next one."""
MOST_RESCUES = 3
"""How often the keypad menu is sent for to one call at most, also in vain."""


async def has_caller(livekit: LiveKit, room: str) -> bool:
    """Whether somebody is on the telephone in *room*, other than one whom we still ring.

    Raises LiveKitFailed.
    """
    return any(
        one.kind == one.Kind.SIP and not _is_dialled(one.attributes)
        for one in await livekit.participants(room)
    )


def _is_dialled(attributes: Mapping[str, str]) -> bool:
    outbound = sip.read(attributes).direction == "outbound"
    return outbound and attributes.get("sip.callStatus") != "active"


def next_agent(dispatches: Sequence[Dispatch]) -> str | None:
    """Whom to send for to a room that lost its agent; None: enough have come, or not come.

    *dispatches* is what was sent for so far. The menu, when nobody took the last call for an agent, or when
    too many agents have died.
    """
    agents = [one for one in dispatches if one.agent_name == sip.AGENT]
    rescues = len(dispatches) - len(agents)
    last = max(agents, key=lambda one: one.state.created_at, default=None)
    nobody_came = last is not None and not last.state.jobs
    if not nobody_came and sum(len(one.state.jobs) for one in agents) < MOST_AGENTS:
        return sip.AGENT
    return sip.RESCUE if rescues < MOST_RESCUES else None


async def send(livekit: LiveKit, room: str, agent: str) -> None:
    """Take our dead agents out of *room*, and whom they had asked to a room apart; send for *agent*.

    Only for a room whose agent is known to be dead: one that lives would be thrown out.
    Raises LiveKitFailed.
    """
    for one in await livekit.participants(room):
        ours = one.identity.startswith((AGENT_PREFIX, RESCUE_PREFIX))
        if one.kind == one.Kind.AGENT and ours:
            await livekit.remove_participant(room, one.identity)
    # First they are gone: who comes leaves at once where somebody answers already.
    await livekit.dispatch(room, agent)
    await livekit.delete_room(f"{CONSULT_ROOM}{room}")
