"""What the guardian does about a call whose agent died, when it can ask LiveKit who is still there."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from livekit import api

from trunkline.calls import queries, service
from trunkline.calls.models import Call
from trunkline.calls.service import Lease
from trunkline.desk import sip, takeover
from trunkline.errors import StaleLease
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database
from trunkline.kit.livekit import CONSULT_ROOM, LiveKit, LiveKitFailed

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)
OPTIONS = GuardianOptions(every=timedelta(0))
DEAD = f"{takeover.AGENT_PREFIX}AJ_1"


class Rooms(LiveKit):
    """A LiveKit whose rooms the test fills."""

    def __init__(
        self, *, caller: bool, agents: int = 1, menus: int = 0, down: bool = False
    ) -> None:
        self._caller, self._agents, self._menus, self._down = caller, agents, menus, down
        self.did: list[str] = []

    async def participants(self, room: str) -> list[api.ParticipantInfo]:
        if self._down:
            raise LiveKitFailed("no answer in time", reached=False)
        kind = api.ParticipantInfo.Kind
        dead = api.ParticipantInfo(identity=DEAD, kind=kind.AGENT)
        other = api.ParticipantInfo(identity="somebody-else", kind=kind.AGENT)
        caller = api.ParticipantInfo(identity="sip_+1", kind=kind.SIP)
        return [dead, other, *([caller] if self._caller else [])]

    async def dispatches(self, room: str) -> list[api.AgentDispatch]:
        taken = api.AgentDispatch(agent_name=sip.AGENT, state={"jobs": [{}]})
        menu = api.AgentDispatch(agent_name=sip.RESCUE)
        return [taken] * self._agents + [menu] * self._menus

    async def dispatch(self, room: str, agent: str, *, metadata: str = "") -> str:
        self.did.append(f"dispatch {agent}")
        return "AD_1"

    async def remove_participant(self, room: str, identity: str) -> None:
        self.did.append(f"remove {identity}")

    async def delete_room(self, room: str) -> None:
        self.did.append(f"delete {CONSULT_ROOM if room.startswith(CONSULT_ROOM) else ''}".strip())


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


async def live(db: Database, make: "Make", seen: datetime, *, answered: bool) -> Lease:
    """A telephone call whose agent was last seen then, in the middle of a turn and a tool."""
    async with db.work() as session:
        call = await make.call(session, channel="sip", now=seen - 12 * S)
        lease = await service.take_lease(session, call.id, now=seen - 12 * S)
        if answered:
            await service.answer(session, lease, now=seen - 10 * S)
            await service.save_turn(
                session,
                lease,
                turn_id=None,
                role="user",
                text="I would like to",
                started_ms=7000,
                ended_ms=None,
                now=seen,
            )
            await service.start_tool(
                session,
                lease,
                name="move_deal",
                arguments={},
                turn_id=None,
                offset_ms=9000,
                now=seen,
            )
        await service.heartbeat(session, lease, now=seen)
    return lease


async def look(db: Database, call_id: str) -> Call:
    async with db.look() as session:
        return await queries.call(session, call_id)


SENT = [f"remove {DEAD}", f"dispatch {sip.AGENT}", "delete trunkline-consult-"]
MENU = [f"remove {DEAD}", f"dispatch {sip.RESCUE}", "delete trunkline-consult-"]
ENDED = ["delete", "delete trunkline-consult-"]


async def test_another_agent_is_sent_to_a_caller_who_is_still_there(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """The dead one is taken out, nobody else; the call goes on, and what was unfinished is closed."""
    lease = await live(db, make, now, answered=True)
    rooms = Rooms(caller=True)
    guardian = Guardian(db, blobs, clock=lambda: now + 7 * S, livekit=rooms, options=OPTIONS)
    await guardian.sweep()
    await guardian.sweep()
    assert rooms.did == SENT, "once: the new agent has its time to come"
    call = await look(db, lease.call_id)
    assert (call.state, call.lease_epoch) == ("talking", lease.epoch + 1)
    async with db.look() as session:
        (turn,) = await queries.turns(session, lease.call_id)
        (run,) = await queries.tool_runs(session, lease.call_id)
    assert (turn.ended_ms, run.state, run.error) == (10_000, "error", "agent_lost")


@pytest.mark.parametrize(
    ("rooms", "answered", "age_s", "reason", "did"),
    [
        # Nobody is on the line any more: whoever had answered is lost, whoever rang has hung up.
        (Rooms(caller=False), True, 7, "agent_lost", ENDED),
        (Rooms(caller=False), False, 7, "cancelled", ENDED),
        # It rings and its agent died before it picked up.
        (Rooms(caller=True), False, 7, None, SENT),
        # A call that has killed so many agents would kill the next one.
        (Rooms(caller=True, agents=4), True, 7, None, MENU),
        (Rooms(caller=True, agents=4, menus=3), True, 7, "agent_lost", ENDED),
        # Nobody knows whether the caller is there; it may be a short restart.
        (Rooms(caller=True, down=True), True, 7, None, []),
        (Rooms(caller=True, down=True), True, 31, "agent_lost", ENDED),
    ],
    ids=[
        "gone",
        "gave-up",
        "rings",
        "too-many",
        "too-many-menus",
        "livekit-down",
        "livekit-down-long",
    ],
)
async def test_what_becomes_of_a_call_without_an_agent(
    rooms: Rooms,
    answered: bool,
    age_s: int,
    reason: str | None,
    did: list[str],
    sqlite_db: Database,
    blobs: Blobs,
    make: "Make",
    now: datetime,
) -> None:
    """It goes on while there is somebody to talk to; a caller is never left in a room without an agent."""
    rooms.did.clear()
    lease = await live(sqlite_db, make, now, answered=answered)
    later = now + age_s * S
    guardian = Guardian(sqlite_db, blobs, clock=lambda: later, livekit=rooms, options=OPTIONS)
    await guardian.sweep()
    call = await look(sqlite_db, lease.call_id)
    assert (call.end_reason, rooms.did) == (reason, did)


@pytest.mark.parametrize("doing", ["talking", "held", "transferring", "rescued"])
async def test_an_agent_goes_on_whatever_the_last_one_did(
    doing: str, db: Database, make: "Make", now: datetime
) -> None:
    """The caller talks with it and is who they were; nobody is being called for them any more."""
    lease = await live(db, make, now, answered=True)
    async with db.work() as session:
        contact = await make.contact(session)
        await service.attach_contact(session, lease.call_id, contact.id)
        if doing == "held":
            await service.hold(session, lease)
        if doing == "transferring":
            await service.begin_transfer(
                session, lease, kind="warm", number="+12025550188", now=now
            )
        if doing == "rescued":
            await service.rescue(session, lease, now=now)
    later = now + S
    async with db.work() as session:
        call = await queries.call(session, lease.call_id)
        assert call.state == doing
        newer = await service.take_lease(session, call.id, now=later)
        await service.take_over(session, newer)
    call = await look(db, lease.call_id)
    assert (call.state, call.contact_id) == ("talking", contact.id)
    async with db.look() as session:
        first, *others = await queries.legs(session, call.id)
    assert first.ended_at is None
    assert [leg.outcome for leg in others] == ["failed"] * (doing == "transferring")
    with pytest.raises(StaleLease):
        async with db.work() as session:
            await service.take_over(session, lease)
