"""Commands on what is stored: the database and the API's keys."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, in_database, make_data_folder, print_json, talk

db_app = typer.Typer(help="The database.", no_args_is_help=True)
user_app = typer.Typer(help="People who may log in.", no_args_is_help=True)
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
        list[str] | None,
        typer.Option(
            help="What it may do; may be repeated. Default: all reads but people:read, keys:read and "
            "audit:read."
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(help="Days after which it opens nothing. Default: it lasts.", min=1),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key of the API and show it, this once."""
    from trunkline.access import service as access
    from trunkline.kit.clock import utc_now

    async def add(session: Any) -> None:
        row, token = await access.add_key(
            session,
            name=name,
            scopes=scope or access.READS,
            lasts=timedelta(days=days) if days else None,
            now=utc_now(),
        )
        if as_json:
            ends = row.expires_at.isoformat() if row.expires_at else None
            print_json(
                {"id": row.id, "name": row.name, "scopes": row.scopes, "ends": ends, "key": token}
            )
        else:
            print(token)  # noqa: T201 - data goes to standard output
            talk.print(
                f"{row.name}: {', '.join(row.scopes)}. The key is shown this once; keep it safe.",
                highlight=False,
            )

    asyncio.run(in_database(data, add))


_Role = Annotated[
    str, typer.Option("--role", help="owner, manager, integrator or viewer.", show_default=True)
]


@user_app.command("add")
def user_add(
    email: Annotated[str | None, typer.Argument(help="Whom the link is for.")] = None,
    role: _Role = "viewer",
    first: Annotated[
        bool, typer.Option("--first", help="The first owner, who says the address in the form.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Print a link with which somebody makes an account, or sets a new password. It works once."""
    from trunkline.access import service as access
    from trunkline.errors import Conflict, Invalid
    from trunkline.kit.clock import utc_now
    from trunkline.settings import Settings

    if first == (email is not None):
        raise Invalid("say an e-mail address, or --first for the first owner")
    settings = Settings.load(trunkline_data=data)

    async def add(session: Any) -> None:
        if first:
            made = await access.first_owner(session, now=utc_now())
            if made is None:
                raise Conflict("there are accounts already; say an e-mail address")
            token, wanted = made, "owner"
        else:
            row, token = await access.invite(
                session, role=role, email=email, by=None, now=utc_now()
            )
            wanted = row.role
            await access.note(
                session,
                actor_id=None,
                actor="command line",
                action="user.invited",
                subject=row.id,
                details={"email": row.email, "role": row.role},
                now=utc_now(),
            )
        path = f"/welcome/{token}"
        url = f"http://{settings.trunkline_host}:{settings.trunkline_port}{path}"
        if as_json:
            print_json({"email": email, "role": wanted, "path": path, "url": url})
        else:
            print(url)  # noqa: T201 - data goes to standard output
            talk.print(
                f"For {email or 'the first owner'}, as {wanted}. It works once, for three days; behind a "
                "proxy put your own host before the path.",
                highlight=False,
            )

    asyncio.run(in_database(data, add))


@user_app.command("list")
def user_list(data: Data = None, as_json: AsJson = False) -> None:
    """List everybody who may log in."""
    from trunkline.access import queries

    async def show(session: Any) -> None:
        rows = await queries.users(session)
        if as_json:
            print_json(
                [
                    {
                        "id": row.id,
                        "email": row.email,
                        "name": row.name,
                        "role": row.role,
                        "disabled": row.disabled_at is not None,
                    }
                    for row in rows
                ]
            )
        else:
            for row in rows:
                off = "  shut out" if row.disabled_at else ""
                print(f"{row.role:<11} {row.email:<40} {row.name}{off}")  # noqa: T201
            if not rows:
                talk.print("Nobody has an account yet: trunkline user add --first")

    asyncio.run(in_database(data, show))


@user_app.command("disable")
def user_disable(
    email: Annotated[str, typer.Argument(help="Whom to shut out, at once and everywhere.")],
    data: Data = None,
) -> None:
    """Shut somebody out."""
    from trunkline.access import queries
    from trunkline.access import service as access
    from trunkline.errors import NotFound
    from trunkline.kit.clock import utc_now

    async def shut_out(session: Any) -> None:
        user = await queries.user_by_email(session, email)
        if user is None:
            raise NotFound(f"nobody has the address {email}; see: trunkline user list")
        await access.disable(session, user.id, now=utc_now())
        await access.note(
            session,
            actor_id=None,
            actor="command line",
            action="user.disabled",
            subject=user.id,
            now=utc_now(),
        )
        talk.print(f"{user.email} is shut out.", highlight=False)

    asyncio.run(in_database(data, shut_out))
