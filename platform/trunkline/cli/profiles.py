"""Commands on profiles: who answers, and how."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, in_database, print_json, talk

profile_app = typer.Typer(
    help="Profiles: who answers, and how. Start with: trunkline profile example",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The profile's name.")]


@profile_app.command("example")
def profile_example() -> None:
    """Print a complete profile to begin with, each field with its meaning."""
    from trunkline.profiles import text

    print(text.example(), end="")  # noqa: T201 - data goes to standard output


@profile_app.command("list")
def profile_list(data: Data = None, as_json: AsJson = False) -> None:
    """List the profiles."""
    from trunkline.profiles import queries

    async def work(session: Any) -> None:
        counts = await queries.number_counts(session)
        rows = [
            {"name": owner.name, "version": version.version, "numbers": counts.get(owner.id, 0)}
            for owner, version in await queries.profiles_page(session, after=None, limit=10_000)
        ]
        if as_json:
            print_json({"profiles": rows})
            return
        for row in rows:
            plural = "" if row["numbers"] == 1 else "s"
            _out(f"{row['name']}  version {row['version']}, {row['numbers']} number{plural}")
        if not rows:
            _say("No profiles yet. Begin with: trunkline profile example > profile.yaml")

    asyncio.run(in_database(data, work))


@profile_app.command("show")
def profile_show(name: Name, data: Data = None, as_json: AsJson = False) -> None:
    """Show a profile: its numbers, its versions and what it says."""
    from trunkline.profiles import queries, text

    async def work(session: Any) -> None:
        owner = await queries.named(session, name)
        current, body = await queries.published(session, owner.id)
        ours = [one for one in await queries.numbers(session) if one.profile_id == owner.id]
        versions = await queries.versions(session, owner.id)
        if as_json:
            print_json(
                {
                    "name": owner.name,
                    "version": current.version,
                    "versions": [
                        {"version": one.version, "created_at": one.created_at.isoformat()}
                        for one in versions
                    ],
                    "numbers": [one.e164 for one in ours],
                    "body": body.model_dump(mode="json"),
                }
            )
            return
        _out(f"# {owner.name}, version {current.version} of {len(versions)}")
        _out(f"# numbers: {', '.join(one.e164 for one in ours) or 'none'}")
        _out(text.write(body).rstrip())

    asyncio.run(in_database(data, work))


@profile_app.command("export")
def profile_export(name: Name, data: Data = None) -> None:
    """Print a profile as a file for publish."""
    from trunkline.profiles import queries, text

    async def work(session: Any) -> None:
        owner = await queries.named(session, name)
        _, body = await queries.published(session, owner.id)
        _out(text.write(body).strip())

    asyncio.run(in_database(data, work))


@profile_app.command("publish")
def profile_publish(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The profile in YAML; - reads standard input.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it, say what would change, change nothing.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let a profile say what a file says, from the next call on; a new name makes a new profile."""
    from trunkline.doctor.models import refused
    from trunkline.errors import Invalid
    from trunkline.kit.clock import utc_now
    from trunkline.profiles import service, text
    from trunkline.profiles.diff import differences
    from trunkline.settings import Settings

    body = text.parse(_read(file))
    if against := asyncio.run(refused(Settings.load(trunkline_data=data), body)):
        raise Invalid(f"the profile is not valid: {'; '.join(against)}")

    async def work(session: Any) -> None:
        version, before = await service.put_profile(session, name=name, body=body, now=utc_now())
        changed = differences(before.body if before else {}, version.body) if before else ()
        told = {
            "name": name,
            "version": version.version,
            "created": before is None,
            "published": not dry_run and (before is None or before.id != version.id),
            "changes": [
                {"field": one.path, "before": one.before, "after": one.after} for one in changed
            ],
        }
        if as_json:
            print_json(told)
        else:
            for one in changed:
                _out(f"{one.path}: {_value(one.before)} → {_value(one.after)}")
        if before is not None and before.id == version.id:
            _say(f"{name!r} says so already (version {version.version}).")
        elif dry_run:
            _say(f"This would be version {version.version} of {name!r}. Nothing was changed.")
        else:
            _say(f"Version {version.version} of {name!r} answers from now on.")
            if before is None:
                _say(f"Next: trunkline number set +12025550100 --profile {json.dumps(name)}")
        if dry_run:
            await session.rollback()

    asyncio.run(in_database(data, work))


def _read(file: Path) -> str:
    from trunkline.errors import Invalid

    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is no UTF-8 text") from error


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, str | Mapping | list):
        shown = json.dumps(value, ensure_ascii=False)
        return shown if len(shown) <= 200 else f"{shown[:197]}…"
    return json.dumps(value)


def _out(line: str) -> None:
    print(line)  # noqa: T201 - data goes to standard output


def _say(line: str) -> None:
    talk.print(line, highlight=False, markup=False, soft_wrap=True)
