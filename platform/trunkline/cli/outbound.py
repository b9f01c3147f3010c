"""The command that calls somebody."""

import asyncio
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, configure_logging, print_json, talk


def call(
    number: Annotated[
        str | None, typer.Argument(help="Whom to call, like +12025550134; a task may name them.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Name of the profile that talks.")] = None,
    shown: Annotated[
        str | None, typer.Option("--from", help="The number of ours that is shown.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why we call, as it may be said to the person.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="A task, act_…, that is done once they have answered.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Tell how it goes until it is over.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Call somebody, as soon as the guardian and a worker are there to do it."""
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    configure_logging(settings)
    asked: dict[str, Any] = {
        "to": number,
        "from_number": shown,
        "profile": profile,
        "reason": reason,
        "activity_id": task,
    }
    told = asyncio.run(_call(settings, asked, wait=wait))
    if as_json:
        print_json(told)
    elif not wait:
        print(told["id"])  # noqa: T201 - data goes to standard output
    raise typer.Exit(1 if wait and told["answered_at"] is None else 0)


async def _call(settings: Any, asked: dict[str, Any], *, wait: bool) -> dict[str, Any]:
    from trunkline.crm.service import Cause
    from trunkline.desk import dial
    from trunkline.kit.clock import utc_now
    from trunkline.kit.db import check_revision, open_database

    db = open_database(settings.database)
    try:
        await check_revision(db)
        async with db.work() as session:
            queued = await dial.queue_call(
                session, **asked, cause=Cause(source="person"), now=utc_now()
            )
        talk.print(f"{queued.id}: queued.", highlight=False)
        return await _follow(db, queued.id) if wait else _told(queued)
    finally:
        await db.close()


async def _follow(db: Any, call_id: str) -> dict[str, Any]:
    """Print each change of the call until it has ended."""
    import contextlib

    from trunkline.calls import queries
    from trunkline.calls.lifecycle import State
    from trunkline.outbox.listen import commits
    from trunkline.web.dashboard import words

    seen = State.QUEUED.value
    async with contextlib.aclosing(commits(db)) as news:
        async for _ in news:
            async with db.look() as session:
                found = await queries.call(session, call_id)
            if found.state == seen:
                continue
            seen = found.state
            said = words.told(found.state, found.end_reason)
            talk.print(f"{call_id}: {found.state}. {said.sentence}", highlight=False)
            if found.state == State.ENDED:
                return _told(found)
    raise AssertionError("commits() goes on for ever")


def _told(call: Any) -> dict[str, Any]:
    moments = ("started_at", "answered_at", "ended_at", "due_at")
    return {
        **{
            name: getattr(call, name)
            for name in (
                "id", "state", "end_reason", "from_number", "to_number", "reason", "activity_id",
                "attempt",
            )
        },
        **{name: at.isoformat() if (at := getattr(call, name)) else None for name in moments},
    }  # fmt: skip
