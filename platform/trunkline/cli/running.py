"""The processes beside the worker, alone or together: opened once, run until SIGTERM, closed."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from trunkline.access.service import first_owner
from trunkline.cli.processes import Part
from trunkline.cli.shared import make_data_folder, talk
from trunkline.courier import Courier
from trunkline.kit import asgi, probes
from trunkline.kit.blobs import open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, check_revision, open_database, revisions, upgrade
from trunkline.kit.livekit import LiveKit, open_livekit
from trunkline.settings import Settings


async def run(
    settings: Settings, parts: Sequence[Part], *, host: str | None = None, port: int | None = None
) -> None:
    """Run *parts* in this process until SIGTERM or SIGINT; a second signal ends it at once.

    Whatever they are, /health and /ready answer on one port: *host* and *port*, else the settings of web
    when it is among them, else those of the first. Prints ``ready PORT`` once they do.
    Raises PortTaken, DatabaseError, LiveKitFailed, Misconfigured.
    """
    wanted_host, wanted_port = _address(settings, parts)
    listener = asgi.listen(
        wanted_host if host is None else host, wanted_port if port is None else port
    )
    make_data_folder(settings)
    db = open_database(settings.database)
    try:
        # On one machine a new embedded database is made; any other is only checked.
        if len(parts) > 1 and db.dialect == "sqlite" and (await revisions(db))[0] is None:
            await upgrade(settings.database_url)
        await check_revision(db)
        async with contextlib.AsyncExitStack() as stack:
            livekit = None
            if settings.livekit is not None and "guardian" in parts:
                livekit = await stack.enter_async_context(open_livekit(settings.livekit))
            app = _app(settings, parts, db, livekit)
            jobs = _jobs(settings, parts, db, livekit)
            address, bound = listener.getsockname()[:2]
            link = None
            if "web" in parts and settings.trunkline_login != "off":
                async with db.work() as session:
                    link = await first_owner(session, now=utc_now())

            def ready() -> None:
                print(f"ready {bound}", flush=True)  # noqa: T201 - for whoever started us
                if talk.is_terminal and "web" in parts:
                    talk.print(f"Dashboard: http://{address}:{bound}/calls")
                if link is not None:
                    talk.print(
                        "Nobody has an account yet. This link, which works once, makes the first owner:\n"
                        f"http://{address}:{bound}/welcome/{link}",
                        highlight=False,
                        soft_wrap=True,
                    )

            await _together([asgi.serve(app, listener, ready), *jobs])
    finally:
        listener.close()
        await db.close()


def _address(settings: Settings, parts: Sequence[Part]) -> tuple[str, int]:
    if "web" in parts:
        return settings.trunkline_host, settings.trunkline_port
    if "courier" in parts:
        return settings.trunkline_courier_host, settings.trunkline_courier_port
    return settings.trunkline_guardian_host, settings.trunkline_guardian_port


def _jobs(
    settings: Settings, parts: Sequence[Part], db: Database, livekit: LiveKit | None
) -> list[Coroutine[Any, Any, None]]:
    jobs: list[Coroutine[Any, Any, None]] = []
    if "courier" in parts:
        jobs.append(Courier(db, settings.courier()).run())
    if "guardian" in parts:
        # A courier alone starts without them, and so delivers sooner after it was killed.
        from trunkline.dialer import Dialer
        from trunkline.guardian import Guardian, GuardianOptions

        blobs = open_blobs(settings.blobs)
        jobs.append(Guardian(db, blobs, GuardianOptions(), livekit=livekit).run())
        if livekit is not None:
            jobs.append(Dialer(db, livekit).run())
    return jobs


def _app(settings: Settings, parts: Sequence[Part], db: Database, livekit: LiveKit | None) -> Any:
    needs = [probes.livekit(livekit)] if livekit is not None else []
    if "web" not in parts:
        return probes.app([probes.database(db), *needs])
    # The courier and the guardian alone load neither FastAPI nor the pages.
    from trunkline.doctor.models import refused
    from trunkline.web.app import create_app
    from trunkline.web.options import WebOptions

    return create_app(
        db,
        open_blobs(settings.blobs),
        WebOptions(
            login=settings.trunkline_login != "off",
            passwords=settings.trunkline_login != "sso",
            sign_in=settings.sign_in(),
            endpoints=settings.endpoints(),
            livekit=settings.livekit,
        ),
        utc_now,
        needs=needs,
        objections=partial(refused, settings),
    )


async def _together(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run *jobs* until a signal or until one fails; the others are then told to end, and waited for."""
    tasks = [asyncio.create_task(job) for job in jobs]

    def stop() -> None:
        for task in tasks:
            task.cancel()

    with asgi.stop_signals(stop):
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end
