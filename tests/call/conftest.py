"""What the call tests share: the sandbox's providers as processes, a furnished database, a placer."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database
from trunkline.kit.processes import spawn
from trunkline.profiles import queries as profile_reads
from trunkline.profiles import service as profiles
from trunkline.profiles.body import read
from trunkline.sandbox.callers import place, sandbox_providers
from trunkline.sandbox.story import OUR_NUMBER, Story, seed


@dataclass(frozen=True)
class Placed:
    """A call that is over: what the caller's side tells, what is stored, and the recordings."""

    told: dict[str, Any]
    page: CallPage
    blobs: Blobs


Place = Callable[..., Awaitable[Placed]]


@asynccontextmanager
async def sandbox(*arguments: str) -> AsyncIterator[int]:
    """The sandbox's server in a process of its own; yields its port."""
    child = await spawn("trunkline.sandbox.server", *arguments)
    try:
        yield int(await child.ready(timedelta(seconds=60)))
    finally:
        await child.stop(timedelta(seconds=3))


@pytest.fixture
def placed(sqlite_db: Database, tmp_path: Any) -> Place:
    """``await placed(story, "llm:500@2", …)``: let a caller call; faults break the providers."""

    async def placed(
        story: Story,
        *faults: str,
        to_raw: str = OUR_NUMBER,
        profile: Mapping[str, Any] | None = None,
        ears: str = "grammar",
        providers: tuple[str, ...] = (),
        **agent: Any,
    ) -> Placed:
        async with sqlite_db.work() as session:
            body = await seed(session, now=utc_now())
            if profile:
                (owner,) = await profile_reads.profiles(session)
                changed = read({**body.model_dump(mode="json"), **profile})
                await profiles.publish(session, owner.id, changed, now=utc_now())
        blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
        await warm()
        arguments = (*(f"--fault={fault}" for fault in faults), *providers)
        async with sandbox(f"--ears={ears}", *arguments) as port:
            # How long these ears take on a busy machine is no part of what is said.
            patient = {"word_after": None, **agent}
            options = replace(sandbox_providers(port, "sandbox"), **patient)
            services = Services(sqlite_db, blobs, options, utc_now)
            told = await place(story, services, room=f"test-{story.key}", to_raw=to_raw)
        async with sqlite_db.look() as session:
            page = await call_page.page(session, told["call_id"])
        return Placed(told, page, blobs)

    return placed
