"""``trunkline doctor`` on a whole set-up of real processes, and on LiveKit broken in each way."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from trunkline.desk.sip import RESCUE
from trunkline.doctor.examine import examine
from trunkline.doctor.report import Report
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database
from trunkline.sandbox.story import OUR_NUMBER, seed
from trunkline.trunks import commands

if TYPE_CHECKING:
    from tests.stack.conftest import House, LiveKitServer, MakeHouse


def marks(report: Report) -> dict[str, bool | None]:
    return {one.what: one.ok for one in report.findings}


def told(report: Report, what: str) -> str:
    (found,) = [one for one in report.findings if one.what == what]
    return f"{found.says} → {found.fix}"


async def test_a_whole_set_up(whole_house: "House") -> None:
    """Nothing is wrong but the SIP host, which is this machine. Before `sip apply` the lines are, too."""
    settings = whole_house.settings
    db = open_database(DatabaseOptions(settings.database_url))
    try:
        async with db.work() as session:
            await seed(session, now=utc_now())
        before = await examine(settings)
        assert "in 2 steps" in told(before, "trunks and rules")
        assert f"no trunk lists {OUR_NUMBER}" in told(before, OUR_NUMBER)
        assert (await commands.sip_apply(settings.trunks(), db)).ok
    finally:
        await db.close()

    found = await examine(settings)
    assert [what for what, ok in marks(found).items() if ok is None] == [
        "clock of the database",  # SQLite has none
        "courier",  # both are in serve
        "guardian",
        "ports to open",
    ]
    wrong = {what for what, ok in marks(found).items() if ok is False}
    assert f"worker {RESCUE}" not in wrong
    assert wrong == {"TRUNKLINE_SIP_HOST", "livekit-sip"}
    assert "1 number has a trunk, a rule and an agent" in told(found, "numbers")
    late = await examine(settings, lambda: utc_now() - timedelta(minutes=1))
    assert "behind" in told(late, "clock of LiveKit")


async def test_a_livekit_that_tells_web_nothing(
    livekit_server: "LiveKitServer", make_house: "MakeHouse"
) -> None:
    """No webhook in livekit.yaml, and no worker: each is said with what to write or start."""
    broken = make_house(livekit_server)
    async with broken.runs("web"):
        report = await examine(broken.settings)
    found = marks(report)
    assert (found["web"], found["webhooks to web"]) == (True, False)
    address = f"http://127.0.0.1:{broken.settings.trunkline_port}/livekit/webhook"
    assert f"urls: [{address}]" in told(report, "webhooks to web")
    assert "trunkline worker" in told(report, "worker trunkline")


async def test_a_key_that_livekit_does_not_know(
    livekit_server: "LiveKitServer", make_house: "MakeHouse"
) -> None:
    """The key is named, never the secret, and nothing else is asked of LiveKit."""
    report = await examine(make_house(livekit_server, livekit_api_secret="w" * 32).settings)
    assert marks(report)["reachable"] is False
    assert "does not accept the key 'devkey'" in told(report, "reachable")
    assert "w" * 32 not in str(report.data)
    assert "worker trunkline" not in marks(report)


async def test_a_livekit_without_redis(
    lonely_livekit_server: "LiveKitServer", make_house: "MakeHouse"
) -> None:
    """It answers, but keeps no trunks: redis.address is the fix."""
    report = await examine(make_house(lonely_livekit_server).settings)
    assert (marks(report)["reachable"], marks(report)["Redis behind it"]) == (True, False)
    assert "set redis.address in its livekit.yaml" in told(report, "Redis behind it")


async def test_redis_that_went_away(
    own_redis: AbstractContextManager[None],
    livekit_on: "Callable[..., AbstractContextManager[LiveKitServer]]",
    make_house: "MakeHouse",
    free_ports: list[int],
) -> None:
    """livekit-server goes on without its Redis and refuses everything: Redis is what is asked about."""
    with ExitStack() as redis:
        redis.enter_context(own_redis)
        with livekit_on(free_ports[4]) as server:
            redis.close()
            report = await examine(make_house(server).settings)
    assert marks(report)["reachable"] is False
    assert "is the Redis behind it running?" in told(report, "reachable")
