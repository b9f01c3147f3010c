"""What every test folder shares: databases, the moment, builders.

Tests cannot import from each other; for the type of a fixture write
``if TYPE_CHECKING: from tests.conftest import Make``.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.calls.models import Call
from trunkline.crm import queries as crm_queries
from trunkline.crm import service as crm
from trunkline.crm.models import Contact, Deal
from trunkline.kit import phone
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.kit.money import Money
from trunkline.profiles import service as profiles
from trunkline.profiles.body import ProfileBody, read
from trunkline.profiles.models import ProfileVersion

Need = Callable[[str, bool, str], None]

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)

# The same examples in each run, and no judgement by the clock: the machine may be busy.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")

COSTLY_FIRST = ("stack", "call", "browser")
"""Folders whose tests take the time that speech takes."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole run, none for a part of it.

    Calls wait for audio most of their time, so two cores carry two of them side by side; of four, those
    that start a stack make the others late. For one file the processes' own start would take longer
    than the file.
    """
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long files out first where files are given out, so that none is left alone at the end."""
    if config.getoption("dist", "no") == "no" and not hasattr(config, "workerinput"):
        return

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return COSTLY_FIRST.index(folder) if folder in COSTLY_FIRST else len(COSTLY_FIRST)

    items.sort(key=rank)


@pytest.fixture
def now() -> datetime:
    """Thursday 15 January 2026, 09:30 UTC."""
    return NOW


def _need(what: str, ok: bool, how: str) -> None:
    if ok:
        return
    reason = f"{what} is not here; {how}"
    if os.environ.get("TRUNKLINE_STACK") == "required":
        pytest.fail(f"{reason} (TRUNKLINE_STACK=required)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def need() -> Need:
    """``need(what, ok, how)``: without *what* the test is skipped and told *how* to get it.

    Where everything ought to be there (TRUNKLINE_STACK=required, as in CI) it fails instead.
    """
    return _need


# --- databases ---------------------------------------------------------------------------------


def _migrate(url: str) -> None:
    # In a thread of its own: a test's event loop may already belong to this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(upgrade(url))).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "empty.db"
    _migrate(f"sqlite+aiosqlite:///{path}")
    return path


class PostgresServer:
    """A PostgreSQL server of this test run: reached by a Unix socket in a folder nobody else may enter,
    so it needs no port and no password. PostgreSQL refuses to run as root; root starts it as
    the user ``postgres`` (Debian's package makes it) or ``nobody``."""

    TEMPLATE = "trunkline_template"

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._made = 0
        self.folder = Path(tempfile.mkdtemp(prefix="trunkline-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _first_user("postgres", "nobody")
            shutil.chown(self.folder, user)
            self._as = {"user": user, "extra_groups": []}

    def start(self) -> None:
        data = str(self.folder / "data")
        # --no-sync, fsync=off: what a power cut would lose is a test's.
        self._run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        flags = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200"
        options = f"-k {self.folder} {flags}"
        self._run(
            "pg_ctl", "-D", data, "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )
        self.execute(f'CREATE DATABASE "{self.TEMPLATE}"')
        _migrate(self.url(self.TEMPLATE))

    def stop(self) -> None:
        data = self.folder / "data"
        try:
            if (data / "postmaster.pid").exists():
                self._run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def clone(self) -> str:
        """Make a migrated, empty database and return its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.TEMPLATE}"')
        return name

    def drop(self, name: str) -> None:
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        # Output to a file: pg_ctl's server would inherit a pipe and never close it.
        with (self.folder / "commands.log").open("ab") as log:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                timeout=60,
                check=False,
                **self._as,
            )
        if done.returncode:
            said = "".join(
                file.read_text(errors="replace")
                for file in (self.folder / "commands.log", self.folder / "log")
                if file.exists()
            )
            pytest.fail(f"{program} failed with {done.returncode}:\n{said}", pytrace=False)


def _first_user(*names: str) -> str:
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in names if name in known)


def postgres_binaries() -> Path | None:
    """The newest installed server's folder: Debian keeps it off the PATH."""
    places = [
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *Path("/opt/homebrew/opt").glob("postgresql*/bin"),
    ]
    found = [
        place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()
    ]
    if found:
        return max(found, key=lambda place: int("".join(filter(str.isdigit, str(place))) or 0))
    # Beside initdb lies everything else, but a link in the PATH may stand alone.
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@pytest.fixture(scope="session")
def postgres_server(need: Need) -> Iterator[PostgresServer]:
    """The run's own PostgreSQL, from the machine's binaries; skipped where there are none."""
    binaries = postgres_binaries()
    need("the PostgreSQL server", binaries is not None, "apt-get install postgresql")
    assert binaries is not None
    server = PostgresServer(binaries)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The address of a fresh, migrated SQLite database."""
    copy = tmp_path / "trunkline.db"
    shutil.copyfile(sqlite_template, copy)
    return f"sqlite+aiosqlite:///{copy}"


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a fresh, migrated database; the test runs once on each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.clone()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def db(db_url: str) -> AsyncIterator[Database]:
    """A fresh, migrated database; the test runs on SQLite and on PostgreSQL."""
    database = open_database(DatabaseOptions(db_url))
    yield database
    await database.close()


@pytest.fixture
async def sqlite_db(sqlite_url: str) -> AsyncIterator[Database]:
    """A fresh, migrated SQLite database, for tests where the kind does not matter."""
    database = open_database(DatabaseOptions(sqlite_url))
    yield database
    await database.close()


# --- builders ----------------------------------------------------------------------------------

CALLER = "+12025550134"
OURS = "+12025550100"
BY_PERSON = crm.Cause(source="person")

BODY: dict[str, Any] = {
    "company": "Northwind Internet",
    "agent_name": "Ava",
    "greeting": "Hello {first_name}, this is {company}. How can I help?",
    "greeting_unknown": "Hello, this is Northwind Internet. How can I help?",
    "farewell": "Thank you for calling. Goodbye.",
    "silence_prompts": ["Are you still there?"],
    "silence_farewell": "I can't hear you, so I will hang up. Goodbye.",
    "instructions": "Northwind sells internet connections to small firms.",
    "timezone": "America/New_York",
    "region": "US",
    "tts": {"voice": "f786b574-daa5-4673-aa0c-cbe3e8534c02"},
    "tools": ["look_up_contact", "find_deals", "move_deal", "log_activity", "end_call"],
    "pipeline": "Sales",
}
STAGES = (
    crm.Stage("qualified", "open"),
    crm.Stage("proposal", "open"),
    crm.Stage("won", "won"),
    crm.Stage("lost", "lost"),
)


class Make:
    """Builders: keyword only, every default fixed; the test states only what it is about.

    What a thing needs comes by itself: ``make.deal(session)`` makes its contact and pipeline.
    """

    async def contact(
        self,
        session: AsyncSession,
        *,
        name: str | None = "Dana Whitfield",
        phones: Sequence[str] = (CALLER,),
        company: str | None = "Whitfield Bakery",
        tags: Sequence[str] = (),
        now: datetime = NOW,
    ) -> Contact:
        """A contact; *phones* in E.164."""
        return await crm.create_contact(
            session,
            name=name,
            phones=[phone.parse(number, region=None) for number in phones],
            company=company,
            tags=tags,
            cause=BY_PERSON,
            now=now,
        )

    async def deal(
        self,
        session: AsyncSession,
        *,
        contact: Contact | None = None,
        title: str = "Office Fiber",
        stage: str = "proposal",
        pipeline: str = "Sales",
        amount: Money = Money(240_000, "USD"),
        now: datetime = NOW,
    ) -> Deal:
        """A deal, with the pipeline qualified → proposal → won | lost, and a contact if none is given."""
        if await crm_queries.pipeline_named(session, pipeline) is None:
            await crm.create_pipeline(session, name=pipeline, stages=STAGES, now=now)
        owner = contact or await self.contact(session, now=now)
        return await crm.create_deal(
            session,
            title=title,
            contact_id=owner.id,
            pipeline=pipeline,
            stage=stage,
            amount=amount,
            cause=BY_PERSON,
            now=now,
        )

    def body(self, **fields: Any) -> ProfileBody:
        """A profile's body; *fields* replace the default's."""
        return read({**BODY, **fields})

    async def profile(
        self,
        session: AsyncSession,
        *,
        name: str = "Front desk",
        body: ProfileBody | None = None,
        number: str | None = OURS,
        region: str = "US",
        now: datetime = NOW,
    ) -> ProfileVersion:
        """A published profile; *number* (E.164) leads to it, None for no number."""
        version = await profiles.create_profile(
            session, name=name, body=body or self.body(), now=now
        )
        if number is not None:
            await profiles.assign_number(
                session,
                phone.parse(number, region=None),
                version.profile_id,
                region=region,
                now=now,
            )
        return version

    async def call(
        self,
        session: AsyncSession,
        *,
        room: str = "room-1",
        direction: str = "inbound",
        channel: str = "loopback",
        from_number: str | None = CALLER,
        to_number: str | None = OURS,
        contact_id: str | None = None,
        profile_version_id: str | None = None,
        now: datetime = NOW,
    ) -> Call:
        """A call that rings."""
        return await calls.start(
            session,
            room=room,
            direction=direction,
            channel=channel,
            from_number=from_number,
            to_number=to_number,
            contact_id=contact_id,
            profile_version_id=profile_version_id,
            now=now,
        )


@pytest.fixture(scope="session")
def make() -> Make:
    """Builders of contacts, deals, profiles and calls."""
    return Make()
