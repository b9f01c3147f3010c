"""The migrations lead to the tables the code knows, and back."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from trunkline.kit.db import (
    Base,
    Database,
    DatabaseError,
    DatabaseOptions,
    alembic_config,
    check_revision,
    is_of_the_models,
    open_database,
    revisions,
    upgrade,
)


async def run(db: Database, step: str, to: str) -> None:
    """Alembic owns an event loop of its own, so it gets a thread."""
    import asyncio

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


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of another kind is told apart from an empty database."""
    (tmp_path / "x.db").write_text("hello, I am a letter and not a database at all\n" * 100)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        await revisions(open_database(DatabaseOptions(f"sqlite+aiosqlite:///{tmp_path}/x.db")))
