"""Commands on contacts: bringing them from a file."""

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, configure_logging, print_json, talk

contacts_app = typer.Typer(help="People whom the CRM knows.", no_args_is_help=True)


class _OnMatch(StrEnum):
    UPDATE = "update"
    SKIP = "skip"


@contacts_app.callback()
def contacts() -> None:
    """Commands on contacts."""


@contacts_app.command("import")
def contacts_import(
    file: Annotated[Path, typer.Argument(help="A CSV file; - for standard input.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would become of the rows.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            help="What each column holds, like name,phone,,email; nothing for one that is left out. "
            "Default: guessed from the headings."
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Country of numbers without a country code, like US.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Whose the external ids are, like hubspot.")
    ] = None,
    on_match: Annotated[
        _OnMatch, typer.Option(help="What becomes of people who are there already.")
    ] = _OnMatch.UPDATE,
    errors: Annotated[
        Path | None, typer.Option(help="Where the rows that fail are written, to be mended.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make and update contacts from a CSV file whose first line names the columns."""
    from trunkline.access.logins import Person
    from trunkline.access.roles import Role
    from trunkline.desk import imports
    from trunkline.errors import Invalid
    from trunkline.guardian import Guardian, GuardianOptions
    from trunkline.kit.blobs import open_blobs
    from trunkline.kit.clock import utc_now
    from trunkline.kit.db import check_revision, open_database
    from trunkline.settings import Settings

    configure_logging()
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from error
    name = "standard input" if str(file) == "-" else file.name

    async def work() -> Any:
        settings = Settings.load(trunkline_data=data)
        db, blobs = open_database(settings.database), open_blobs(settings.blobs)
        # A serve that runs beside may take the file as well as we; both wait for the same end.
        guardian = Guardian(db, blobs, GuardianOptions())

        async def through(state: str) -> Any:
            while True:
                await guardian.run_imports(only=import_id)
                async with db.look() as session:
                    row = await imports.get(session, import_id)
                if row.state == state:
                    return row
                if row.state == "stopped" or row.error:
                    raise Invalid(f"{name} was not imported: {row.error}")
                await asyncio.sleep(0.2)

        try:
            await check_revision(db)
            sheet = imports.look(raw)
            now = utc_now()
            import_id = imports.fresh_id(now)
            async with db.work() as session:
                row = await imports.bring(
                    session,
                    sheet,
                    import_id=import_id,
                    file_name=name,
                    by=Person("cli", "The command line", "", Role.OWNER, ""),
                    now=now,
                )
                await imports.choose(
                    session,
                    import_id,
                    columns=row.columns
                    if columns is None
                    else [one.strip() for one in columns.split(",")],
                    region=region,
                    source=source or imports.OURS,
                    on_match=on_match.value,
                )
                # Last: what is refused leaves no file behind.
                await blobs.put(imports.new_blob(import_id), raw)
            row = await through("checked")
            if not dry_run:
                async with db.work() as session:
                    await imports.run(session, import_id)
                row = await through("done")
            async with db.look() as session:
                faults = await imports.faults(session, import_id, limit=20)
            if errors is not None and row.failed:
                parts = [part async for part in imports.errors_file(db, row)]
                await asyncio.to_thread(errors.write_bytes, b"".join(parts))
            if dry_run:
                async with db.work() as session:
                    await imports.discard(session, import_id)
                await blobs.delete(imports.new_blob(import_id))
            return row, faults
        finally:
            await db.close()

    row, faults = asyncio.run(work())
    counts = {name: getattr(row, name) for name in ("total", "made", "changed", "same", "failed")}
    if as_json:
        told = [{"line": one.line, "error": one.reason} for one in faults]
        held = dict(zip(row.header, row.columns, strict=True))
        print_json({**counts, "dry_run": dry_run, "columns": held, "errors": told})
    for one in faults:
        talk.print(f"line {one.line}: {one.reason}", markup=False, highlight=False)
    if row.failed > len(faults):
        talk.print(f"… and {row.failed - len(faults)} more rows; --errors FILE writes them all")
    would = "would be " if dry_run else ""
    talk.print(
        f"{row.total} rows: {row.made} contacts {would}made, {row.changed} {would}changed, {row.same} "
        f"the same, {row.failed} rows {'would fail' if dry_run else 'failed'}.",
        highlight=False,
    )
