"""The migrations lead to the tables the code knows, and back."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url

from trunkline.kit.db import (
    Base,
    Database,
    DatabaseError,
    DatabaseOptions,
    alembic_config,
    check_revision,
    head_revision,
    is_of_the_models,
    open_database,
    postgres_arguments,
    revisions,
    upgrade,
)


async def run(db: Database, step: str, to: str) -> None:
    """Alembic owns an event loop of its own, so it gets a thread."""
    config = alembic_config(db.engine.url.render_as_string(hide_password=False))
    await asyncio.to_thread(getattr(command, step), config, to)


async def test_down_to_nothing_and_up_again(db: Database) -> None:
    """Every migration can be taken back and done again, one at a time."""
    steps = list(ScriptDirectory.from_config(alembic_config("")).walk_revisions())
    for step in steps:
        await run(db, "downgrade", step.down_revision or "base")  # type: ignore[arg-type]
    async with db.engine.connect() as connection:
        left = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert left == ["alembic_version"]
    for step in reversed(steps):
        await run(db, "upgrade", step.revision)
    await check_revision(db)


def test_the_newest_revision_is_the_one_that_alembic_finds() -> None:
    """It is read from the files without running them, and says the same."""
    assert head_revision() == ScriptDirectory.from_config(alembic_config("")).get_current_head()


async def test_the_tables_are_those_of_the_models(db: Database) -> None:
    """Autogenerate finds nothing to do: no column was changed without a migration."""

    def differences(connection: Connection) -> Any:
        opts = {"compare_type": True, "include_name": is_of_the_models}
        context = MigrationContext.configure(connection, opts=opts)
        return compare_metadata(context, Base.metadata)

    async with db.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_another_revision_is_refused_with_the_command_to_run(sqlite_db: Database) -> None:
    """A program never works on tables it does not know."""
    await run(sqlite_db, "downgrade", "base")
    with pytest.raises(DatabaseError, match="run: trunkline db upgrade"):
        await check_revision(sqlite_db)


async def test_a_newer_database_is_left_alone(sqlite_db: Database) -> None:
    """A database of a later version is refused, with a sentence, and keeps its revision."""
    async with sqlite_db.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'f00d'")
    with pytest.raises(DatabaseError, match="made by another version"):
        await upgrade(sqlite_db.engine.url.render_as_string(hide_password=False))
    assert (await revisions(sqlite_db))[0] == "f00d"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "is no database address"),  # no URL at all
        ("sqlite+aiosqlite:////no/such/folder/x.db", "the folder of the database does not exist"),
        ("postgresql+psycopg://nobody:secret@127.0.0.1:1/x", "cannot be opened"),  # nothing listens
    ],
)
async def test_a_database_that_cannot_be_opened(url: str, says: str) -> None:
    """One clear sentence, and never the password."""
    with pytest.raises(DatabaseError, match=says) as caught:
        await revisions(open_database(DatabaseOptions(url)))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("verb", ["open", "upgrade"])
async def test_a_server_that_never_answers_is_an_error(verb: str) -> None:
    """A PostgreSQL that takes the connection and then says nothing is given up, with a sentence."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"postgresql+psycopg://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    async with server, asyncio.timeout(60):
        if verb == "open":
            # The shortest there is.
            db = open_database(DatabaseOptions(url, connect=timedelta(seconds=2)))
            with pytest.raises(DatabaseError, match=r"cannot be opened: .*timeout"):
                await revisions(db)
        else:
            with pytest.raises(DatabaseError, match=r"cannot be upgraded: .*timeout"):
                await upgrade(url + "?connect_timeout=2")


def test_psycopg_gives_up_after_seconds_by_default() -> None:
    """A server that cannot be reached is an error after five seconds, unless the address says otherwise."""
    url = make_url("postgresql+psycopg://nobody@db.example/x")
    assert postgres_arguments(url)["connect_timeout"] == 5
    assert "connect_timeout" not in postgres_arguments(url.set(query={"connect_timeout": "30"}))


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of another kind is told apart from an empty database."""
    (tmp_path / "x.db").write_text("hello, I am a letter and not a database at all\n" * 100)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        await revisions(open_database(DatabaseOptions(f"sqlite+aiosqlite:///{tmp_path}/x.db")))
