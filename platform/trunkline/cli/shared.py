"""What the commands share: options, output, the database."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

talk = Console(stderr=True)
"""Talk goes to standard error; data to standard output."""

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the database and the recordings.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON on standard output.")]


async def in_database(data: Path | None, work: Any) -> None:
    from trunkline.kit.db import check_revision, open_database
    from trunkline.settings import Settings

    db = open_database(Settings.load(trunkline_data=data).database)
    try:
        await check_revision(db)
        async with db.work() as session:
            await work(session)
    finally:
        await db.close()


def make_data_folder(settings: Any) -> None:
    from trunkline.errors import Unavailable

    try:
        settings.trunkline_data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the data folder {settings.trunkline_data} cannot be made ({error.strerror}); "
            "choose another with --data"
        ) from error


def missing_sandbox(error: ImportError) -> Exception:
    from trunkline.errors import Unavailable

    return Unavailable(f"{error.name} is not installed; install trunkline[sandbox]")


def configure_logging(settings: Any = None) -> None:
    from trunkline.kit import log

    if settings is None:
        log.configure("console", "warning")
    else:
        log.configure(settings.trunkline_log, settings.trunkline_log_level)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))  # noqa: T201
