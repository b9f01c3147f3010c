"""Commands on telephone lines: trunks, rules, numbers at the provider, who would answer."""

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, configure_logging, print_json, talk

sip_app = typer.Typer(
    help="SIP trunks and dispatch rules: the folder sip/ and LiveKit.", no_args_is_help=True
)

Sip = Annotated[
    Path | None, typer.Option("--sip", help="Folder of trunks/ and rules/.", show_default=False)
]


@sip_app.command("plan")
def sip_plan(data: Data = None, sip: Sip = None, as_json: AsJson = False) -> None:
    """Say what apply would change in LiveKit; changes nothing."""
    from trunkline.trunks import commands

    _tell(data, sip, as_json, commands.sip_plan)


@sip_app.command("apply")
def sip_apply(data: Data = None, sip: Sip = None, as_json: AsJson = False) -> None:
    """Make LiveKit's trunks and rules what the files and our numbers say; touches only its own."""
    from trunkline.trunks import commands

    def step(line: str) -> None:
        talk.print(line, highlight=False, soft_wrap=True)

    _tell(data, sip, as_json, lambda options, db: commands.sip_apply(options, db, step))


@sip_app.command("show")
def sip_show(sip: Sip = None, as_json: AsJson = False) -> None:
    """List the trunks and rules that LiveKit has, ours and others'."""
    from trunkline.trunks import commands

    _tell(None, sip, as_json, commands.sip_show, database=False)


def route(
    number: Annotated[str, typer.Argument(help="The dialled number, as the carrier sends it.")],
    caller: Annotated[str | None, typer.Option("--from", help="The caller's number.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read files and database instead of LiveKit.")
    ] = False,
    data: Data = None,
    sip: Sip = None,
    as_json: AsJson = False,
) -> None:
    """Say who would answer a call to NUMBER, or why it would ring for ever."""
    from trunkline.kit.clock import utc_now
    from trunkline.trunks import commands

    _tell(
        data,
        sip,
        as_json,
        lambda options, db: commands.route(
            options, db, number, caller=caller, offline=offline, now=utc_now()
        ),
    )


class _Provider(StrEnum):
    twilio = "twilio"
    telnyx = "telnyx"


class _Transport(StrEnum):
    udp = "udp"
    tcp = "tcp"
    tls = "tls"


def provision(
    provider: Annotated[_Provider, typer.Argument(help="Whose number it is.")],
    number: Annotated[str, typer.Option(help="The number, like +12025550100.")],
    transport: Annotated[_Transport, typer.Option(help="Of the SIP signalling.")] = _Transport.tcp,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a provider send the calls of one of its numbers to our livekit-sip."""
    from trunkline.trunks import commands

    _tell(
        None,
        None,
        as_json,
        lambda options: commands.provision_number(
            options, provider.value, number, transport=transport.value, dry_run=dry_run
        ),
        database=False,
    )


def _tell(
    data: Path | None, sip: Path | None, as_json: bool, command: Any, *, database: bool = True
) -> None:
    """Run a command of the trunks and print what it tells; not ok is exit code 1."""
    from trunkline.kit.db import check_revision, open_database
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data, trunkline_sip=sip)

    async def run() -> Any:
        if not database:
            return await command(settings.trunks())
        db = open_database(settings.database)
        try:
            await check_revision(db)
            return await command(settings.trunks(), db)
        finally:
            await db.close()

    configure_logging(settings)
    told = asyncio.run(run())
    if as_json:
        print_json(told.data)
    else:
        print("\n".join(told.lines))  # noqa: T201 - data goes to standard output
    raise typer.Exit(0 if told.ok else 1)
