"""The whole examination, side by side; what needs the database or LiveKit waits for those alone."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from datetime import timedelta

import httpx

from trunkline.doctor import house, lines, livekit, models, people, providers
from trunkline.doctor.report import Finding, Findings, Group, Report, bounded
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database, DatabaseError
from trunkline.kit.http import open_client
from trunkline.kit.livekit import LiveKit, LiveKitFailed, LiveKitOptions, open_livekit
from trunkline.settings import Settings


async def examine(settings: Settings, clock: Clock = utc_now) -> Report:
    """Look at everything between here and a telephone call. Leaves nothing behind but empty folders."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            open_client(
                connect=timedelta(seconds=4), total=timedelta(seconds=6), max_connections=20
            )
        )
        db = await stack.enter_async_context(house.opened(settings))
        link = await _open(settings, stack)
        has_db = asyncio.create_task(bounded("data", "database", house.database(db)))
        has_link = asyncio.create_task(bounded("livekit", "reachable", _reachable(link)))
        groups = await asyncio.gather(
            _settings(settings),
            _data(settings, clock, db, has_db),
            _providers(settings, client, db, has_db),
            _livekit(settings, clock, client, link, has_link),
            _processes(settings, client),
            _people(settings, clock),
            _lines(settings, db, has_db, link, has_link),
        )
    return Report(tuple(finding for group in groups for finding in group))


_Looked = asyncio.Task[Findings]
"""A look that others wait for."""


async def _good(look: _Looked) -> bool:
    return all(one.ok for one in await asyncio.shield(look))


async def _all(*checks: tuple[Group, str, Awaitable[Findings]]) -> Findings:
    """What all *checks* find, in their order, each within its limit."""
    found = await asyncio.gather(*(bounded(*check) for check in checks))
    return [one for some in found for one in some]


async def _open(
    settings: Settings, stack: contextlib.AsyncExitStack
) -> LiveKit | LiveKitFailed | None:
    """LiveKit, or why its address is none; None while its settings are missing."""
    if settings.livekit is None:
        return None
    options = settings.livekit
    try:
        return await stack.enter_async_context(
            open_livekit(
                LiveKitOptions(
                    options.url, options.api_key, options.api_secret, timeout=livekit.PATIENCE
                )
            )
        )
    except LiveKitFailed as error:
        return error


async def _reachable(link: LiveKit | LiveKitFailed | None) -> Findings:
    if link is None:
        says = "LIVEKIT_URL, LIVEKIT_API_KEY or LIVEKIT_API_SECRET is not set"
        return [Finding("livekit", "reachable", None, says, house.ENV)]
    if isinstance(link, LiveKitFailed):
        return [Finding.wrong("livekit", "reachable", link)]
    return await livekit.reachable(link)


async def _settings(settings: Settings) -> Findings:
    return [*house.settings_set(settings), *livekit.leaves_the_house(settings)]


async def _data(
    settings: Settings, clock: Clock, db: Database | DatabaseError, has_db: _Looked
) -> Findings:
    async def its_clock() -> Findings:
        if not isinstance(db, Database) or not await _good(has_db):
            return []
        return await house.database_clock(db, clock)

    async def keys() -> Findings:
        return house.secret_keys(settings)

    return [
        *await has_db,
        *await _all(
            ("data", "clock of the database", its_clock()),
            ("data", "recordings", house.blobs(settings)),
            ("data", "free space", house.disk(settings)),
            ("data", "keys for secrets", keys()),
        ),
    ]


async def _providers(
    settings: Settings,
    client: httpx.AsyncClient,
    db: Database | DatabaseError,
    has_db: _Looked,
) -> Findings:
    async def chosen() -> Findings:
        if not isinstance(db, Database) or not await _good(has_db):
            return []
        return await models.published(client, settings, db)

    return await _all(
        *(("providers", n, providers.provider(client, settings, n)) for n in providers.NAMES),
        ("providers", "profiles", chosen()),
    )


async def _livekit(
    settings: Settings,
    clock: Clock,
    client: httpx.AsyncClient,
    link: LiveKit | LiveKitFailed | None,
    has_link: _Looked,
) -> Findings:
    first = await has_link
    if not isinstance(link, LiveKit) or not await _good(has_link):
        return first
    return [
        *first,
        *await _all(
            ("livekit", "Redis behind it", livekit.telephony(link)),
            *(("livekit", f"worker {one}", livekit.worker(link, one)) for one in livekit.AGENTS),
            ("livekit", "webhooks to web", livekit.webhooks(client, link, settings)),
            ("livekit", "clock of LiveKit", livekit.clock_of(client, link.url, clock)),
        ),
    ]


async def _processes(settings: Settings, client: httpx.AsyncClient) -> Findings:
    ports = (
        ("web", settings.trunkline_host, settings.trunkline_port),
        ("worker", settings.trunkline_worker_host, settings.trunkline_worker_port),
        ("courier", settings.trunkline_courier_host, settings.trunkline_courier_port),
        ("guardian", settings.trunkline_guardian_host, settings.trunkline_guardian_port),
    )
    return await _all(
        *(
            ("processes", name, house.process(client, name, host, port))
            for name, host, port in ports
        )
    )


async def _people(settings: Settings, clock: Clock) -> Findings:
    return await _all(("people", people.WHAT, people.sign_in(settings, clock)))


async def _lines(
    settings: Settings,
    db: Database | DatabaseError,
    has_db: _Looked,
    link: LiveKit | LiveKitFailed | None,
    has_link: _Looked,
) -> Findings:
    async def kept() -> Findings:
        absent: Sequence[str] = [
            *([] if await _good(has_db) else ["the database"]),
            *([] if await _good(has_link) else ["LiveKit"]),
        ]
        if absent or not isinstance(db, Database) or not isinstance(link, LiveKit):
            says = f"not looked at without {' and '.join(absent)}"
            return [Finding("lines", "trunks, rules and numbers", None, says)]
        return [*await lines.in_step(settings, db), *await lines.numbers(db, link)]

    return [
        *await _all(
            ("lines", "trunks, rules and numbers", kept()),
            ("lines", lines.HOST, lines.host(settings)),
        ),
        *lines.firewall(settings.trunkline_sip),
    ]
