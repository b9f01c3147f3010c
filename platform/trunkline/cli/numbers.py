"""Commands on our numbers and on callers who are not put through."""

import asyncio
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, in_database, print_json, talk

number_app = typer.Typer(
    help="Numbers of ours, and the profile that answers each.", no_args_is_help=True
)
block_app = typer.Typer(help="Callers who are not put through.", no_args_is_help=True)


@number_app.command("set")
def number_set(
    number: Annotated[str, typer.Argument(help="The number, like +12025550100.")],
    profile: Annotated[str, typer.Option("--profile", help="Name of the profile that answers.")],
    region: Annotated[
        str | None,
        typer.Option(
            help="Country in which callers' national numbers are read, like US; by itself the number's."
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="Where it rings, like Europe/Berlin; '' for where the profile is."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="What it is for; '' for nothing.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let a profile answer a number, whatever answered it before. What is not given stays."""
    from trunkline.errors import Invalid
    from trunkline.kit import phone
    from trunkline.kit.clock import utc_now
    from trunkline.profiles import queries, service
    from trunkline.profiles.service import KEEP

    try:
        ours = phone.parse(number, region=region)
    except ValueError as error:
        raise Invalid(str(error)) from error

    async def work(session: Any) -> None:
        owner = await queries.named(session, profile)
        before = await queries.find_number(session, ours.e164)
        home = region or (before[0].region if before else service.region_of(ours))
        if home is None:
            raise Invalid(f"{ours} belongs to no country; say where callers are: --region US")
        row = await service.assign_number(
            session,
            ours,
            owner.id,
            region=home,
            label=KEEP if label is None else label or None,
            timezone=KEEP if timezone is None else timezone or None,
            now=utc_now(),
        )
        if as_json:
            print_json(_number(row, owner.name))
        if before is not None and before[1].id != owner.id:
            _say(f"{ours.e164} moves from {before[1].name!r} to {owner.name!r}.")
        else:
            _say(f"{owner.name!r} answers {ours.e164}.")
        if before is None:
            _say("Next: trunkline sip apply, which tells LiveKit of the number.")

    asyncio.run(in_database(data, work))


@number_app.command("list")
def number_list(data: Data = None, as_json: AsJson = False) -> None:
    """List our numbers and who answers them."""
    from trunkline.profiles import queries

    async def work(session: Any) -> None:
        names = {each.id: each.name for each in await queries.profiles(session)}
        rows = [_number(row, names[row.profile_id]) for row in await queries.numbers(session)]
        if as_json:
            print_json({"numbers": rows})
            return
        for row in rows:
            zone = row["timezone"] or "the profile's time zone"
            label = f"  {row['label']}" if row["label"] else ""
            _out(f"{row['number']}  {row['profile']}  {row['region']}, {zone}{label}")
        if not rows:
            _say("No numbers yet. Add one: trunkline number set +12025550100 --profile NAME")

    asyncio.run(in_database(data, work))


@number_app.command("remove")
def number_remove(
    number: Annotated[str, typer.Argument(help="The number, like +12025550100.")],
    data: Data = None,
) -> None:
    """Let nobody answer a number any more."""
    from trunkline.errors import Invalid
    from trunkline.kit import phone
    from trunkline.profiles import service

    try:
        ours = phone.parse(number, region=None)
    except ValueError as error:
        raise Invalid(str(error)) from error

    async def work(session: Any) -> None:
        await service.remove_number(session, ours.e164)
        _say(
            f"Nobody answers {ours.e164} any more. Next: trunkline sip apply, which takes its rule away."
        )

    asyncio.run(in_database(data, work))


class _Action(StrEnum):
    reject = "reject"
    message = "message"


@block_app.command("add")
def block_add(
    caller: Annotated[
        str, typer.Argument(help="A number, or the beginning of many and a star: '+4490*'.")
    ],
    action: Annotated[
        _Action, typer.Option(help="reject: the line ends; message: they may leave one.")
    ] = _Action.reject,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever looks later.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="For so many days; else for good.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Do not put a caller through; a pattern that is there already is changed."""
    from trunkline.kit.clock import utc_now
    from trunkline.profiles import service

    async def work(session: Any) -> None:
        now = utc_now()
        row, is_new = await service.block_caller(
            session,
            caller,
            action=action.value,
            reason=reason,
            expires_at=now + timedelta(days=days) if days else None,
            now=now,
        )
        if as_json:
            print_json(_block(row))
        end = f" until {_moment(row.expires_at)}" if row.expires_at else ""
        told = "Blocked" if is_new else "Was blocked already, and is now"
        _say(f"{told}: {row.pattern} ({row.action}){end}.")

    asyncio.run(in_database(data, work))


@block_app.command("list")
def block_list(data: Data = None, as_json: AsJson = False) -> None:
    """List blocked callers, the newest first."""
    from trunkline.kit.clock import utc_now
    from trunkline.profiles import queries

    async def work(session: Any) -> None:
        rows = await queries.blocks_page(session)
        if as_json:
            print_json({"blocked_callers": [_block(row) for row in rows]})
            return
        for row in rows:
            over = row.expires_at is not None and row.expires_at <= utc_now()
            end = (
                f"  {'ran out' if over else 'until'} {_moment(row.expires_at)}"
                if row.expires_at
                else ""
            )
            reason = f"  {row.reason}" if row.reason else ""
            _out(f"{row.pattern}  {row.action}{end}{reason}")
        if not rows:
            _say("Nobody is blocked.")

    asyncio.run(in_database(data, work))


@block_app.command("remove")
def block_remove(
    caller: Annotated[str, typer.Argument(help="The pattern as it was blocked, or its id: blk_…")],
    data: Data = None,
) -> None:
    """Put a caller through again."""
    from trunkline.profiles import queries, service

    async def work(session: Any) -> None:
        row = (
            await queries.block(session, caller)
            if caller.startswith("blk_")
            else await queries.block_named(session, caller)
        )
        await service.unblock(session, row.id)
        _say(f"Put through again: {row.pattern}.")

    asyncio.run(in_database(data, work))


def _number(row: Any, profile: str) -> dict[str, Any]:
    return {
        "number": row.e164,
        "profile": profile,
        "region": row.region,
        "timezone": row.timezone,
        "label": row.label,
    }


def _block(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "caller": row.pattern,
        "action": row.action,
        "reason": row.reason,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
    }


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _out(line: str) -> None:
    print(line)  # noqa: T201 - data goes to standard output


def _say(line: str) -> None:
    talk.print(line, highlight=False, markup=False, soft_wrap=True)
