"""Commands on what is stored: the database and the API's keys."""

import asyncio
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, in_database, make_data_folder, print_json, talk

db_app = typer.Typer(help="The database.", no_args_is_help=True)
key_app = typer.Typer(help="Keys of the API.", no_args_is_help=True)


@db_app.command("upgrade")
def db_upgrade(data: Data = None) -> None:
    """Bring the database to this program's revision."""
    from trunkline.kit.db import upgrade
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    make_data_folder(settings)
    asyncio.run(upgrade(settings.database_url))
    talk.print("The database is up to date.")


@db_app.command("check")
def db_check(data: Data = None, as_json: AsJson = False) -> None:
    """Say whether the database is at this program's revision."""
    from trunkline.kit.db import check_revision, open_database, revisions
    from trunkline.settings import Settings

    async def check() -> None:
        db = open_database(Settings.load(trunkline_data=data).database)
        try:
            current, wanted = await revisions(db)
            if as_json:
                print_json({"current": current, "wanted": wanted, "ok": current == wanted})
            await check_revision(db)
            talk.print("The database is up to date.")
        finally:
            await db.close()

    asyncio.run(check())


@key_app.command("add")
def key_add(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do; may be repeated. Default: all reads.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key of the API and show it, this once."""
    from trunkline.access import service as access
    from trunkline.kit.clock import utc_now

    async def add(session: Any) -> None:
        row, token = await access.add_key(
            session, name=name, scopes=scope or access.READS, now=utc_now()
        )
        if as_json:
            print_json({"id": row.id, "name": row.name, "scopes": row.scopes, "key": token})
        else:
            print(token)  # noqa: T201 - data goes to standard output
            talk.print(
                f"{row.name}: {', '.join(row.scopes)}. The key is shown this once; keep it safe.",
                highlight=False,
            )

    asyncio.run(in_database(data, add))
