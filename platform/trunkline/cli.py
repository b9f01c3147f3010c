"""The command line. Knows everything; imports what is heavy only inside the command that needs it."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="trunkline",
    help="A voice agent that answers your telephone. Start with: trunkline demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
db_app = typer.Typer(help="The database.", no_args_is_help=True)
sip_app = typer.Typer(
    help="SIP trunks and dispatch rules: the folder sip/ and LiveKit.", no_args_is_help=True
)
webhooks_app = typer.Typer(help="Webhooks, from the receiver's side.", no_args_is_help=True)
key_app = typer.Typer(help="Keys of the API.", no_args_is_help=True)
app.add_typer(db_app, name="db")
app.add_typer(key_app, name="key")
app.add_typer(sip_app, name="sip")
app.add_typer(webhooks_app, name="webhooks")

_talk = Console(stderr=True)

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the database and the recordings.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON on standard output.")]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error we can name becomes one sentence. Returns the exit code."""
    from trunkline.errors import Invalid, Misconfigured, TrunklineError

    try:
        app(args=arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    except (Invalid, Misconfigured) as error:
        return _failed(error, 2)
    except TrunklineError as error:
        return _failed(error, 1)
    except Exception as error:
        from trunkline.kit.asgi import PortTaken
        from trunkline.kit.crypt import CryptError
        from trunkline.kit.db import DatabaseError
        from trunkline.kit.processes import ChildDied

        if not isinstance(error, PortTaken | CryptError | DatabaseError | ChildDied):
            raise
        return _failed(error, 1)
    return 0


def _failed(error: Exception, code: int) -> int:
    _talk.print(f"trunkline: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
    return code


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the calls.")] = False,
    as_json: AsJson = False,
    data: Annotated[
        Path, typer.Option(help="Folder of the demo's database and recordings.")
    ] = Path(".trunkline/demo"),
    port: Annotated[int, typer.Option(help="Port of the dashboard; 0 takes any free one.")] = 8420,
    calls: Annotated[str, typer.Option(help="Which of the calls a to e to place.")] = "abcde",
    livekit: Annotated[
        bool,
        typer.Option("--livekit", help="Through a real livekit-server (and Redis) on PATH."),
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Break a provider: part:kind@turn, for example llm:500@2."),
    ] = None,
) -> None:
    """Place five calls with real audio, show them live, and serve the dashboard. Needs no keys."""
    try:
        from trunkline.sandbox import demo as demonstration
        from trunkline.sandbox.options import Fault
    except ImportError as error:
        raise _missing_sandbox(error) from None
    try:
        stories = tuple(demonstration.story_keys(calls))
        for text in fault or ():
            Fault.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _logging()
    raise typer.Exit(
        asyncio.run(
            demonstration.run(
                demonstration.DemoOptions(
                    data=data.absolute(),
                    port=port,
                    once=once,
                    as_json=as_json,
                    faults=tuple(fault or ()),
                    stories=stories,
                    livekit=livekit,
                )
            )
        )
    )


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes any free one.")
    ] = None,
) -> None:
    """Run everything but the worker on one machine: API, dashboard, courier, guardian."""
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data, trunkline_host=host, trunkline_port=port)
    _logging(settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Any) -> None:
    import contextlib

    from trunkline.courier import Courier
    from trunkline.guardian import Guardian, GuardianOptions
    from trunkline.kit import asgi
    from trunkline.kit.blobs import open_blobs
    from trunkline.kit.clock import utc_now
    from trunkline.kit.db import check_revision, open_database, revisions, upgrade
    from trunkline.kit.livekit import open_livekit
    from trunkline.web.app import create_app
    from trunkline.web.options import WebOptions

    listener = asgi.listen(settings.trunkline_host, settings.trunkline_port)
    port = listener.getsockname()[1]
    _make_data_folder(settings)
    db = open_database(settings.database)
    try:
        # An embedded database that is new is made; an existing one is only checked.
        if db.dialect == "sqlite" and (await revisions(db))[0] is None:
            await upgrade(settings.database_url)
        await check_revision(db)
        blobs = open_blobs(settings.blobs)
        livekit = settings.livekit
        web = create_app(
            db, blobs, WebOptions(endpoints=settings.endpoints(), livekit=livekit), utc_now
        )

        def ready() -> None:
            print(f"ready {port}", flush=True)  # noqa: T201 - for whoever started us
            if _talk.is_terminal:
                _talk.print(f"Dashboard: http://{settings.trunkline_host}:{port}/calls")

        async with contextlib.AsyncExitStack() as stack:
            watched = await stack.enter_async_context(open_livekit(livekit)) if livekit else None
            work = asyncio.gather(
                asgi.serve(web, listener, ready),
                Courier(db, settings.courier()).run(),
                Guardian(db, blobs, GuardianOptions(), livekit=watched).run(),
            )
            with asgi.stop_signals(work.cancel), contextlib.suppress(asyncio.CancelledError):
                await work
    finally:
        listener.close()
        await db.close()


@app.command()
def worker(data: Data = None) -> None:
    """Answer the calls that LiveKit sends for the agent `trunkline`, each in a process of its own."""
    from trunkline.settings import Settings

    options = Settings.load(trunkline_data=data).worker()
    from trunkline.agent import server

    _logging(Settings.load(trunkline_data=data))
    asyncio.run(
        server.run(options, lambda port: print(f"ready {port}", flush=True))  # noqa: T201
    )


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")] = 8421,
    key: Annotated[str, typer.Option(help="The API key that the providers accept.")] = "sandbox",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Break a provider: part:kind@turn, for example llm:500@2."),
    ] = None,
) -> None:
    """Run the offline stand-ins for Deepgram, OpenAI and Cartesia, speaking their wire protocols."""
    try:
        from trunkline.sandbox import server
        from trunkline.sandbox.options import Fault, SandboxOptions
    except ImportError as error:
        raise _missing_sandbox(error) from None
    try:
        faults = tuple(Fault.parse(text) for text in fault or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def ready(port: int) -> None:
        root = f"http://127.0.0.1:{port}"
        print(f"ready {port}", flush=True)  # noqa: T201 - for whoever started us
        _talk.print(
            f"DEEPGRAM_BASE_URL={root}/deepgram/v1/listen\nOPENAI_BASE_URL={root}/openai/v1\n"
            f"CARTESIA_BASE_URL={root}/cartesia",
            highlight=False,
        )

    _logging()
    asyncio.run(server.serve(SandboxOptions(port=port, api_key=key, faults=faults), ready))


@db_app.command("upgrade")
def db_upgrade(data: Data = None) -> None:
    """Bring the database to this program's revision."""
    from trunkline.kit.db import upgrade
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    _make_data_folder(settings)
    asyncio.run(upgrade(settings.database_url))
    _talk.print("The database is up to date.")


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
                _print({"current": current, "wanted": wanted, "ok": current == wanted})
            await check_revision(db)
            _talk.print("The database is up to date.")
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
            _print({"id": row.id, "name": row.name, "scopes": row.scopes, "key": token})
        else:
            print(token)  # noqa: T201 - data goes to standard output
            _talk.print(
                f"{row.name}: {', '.join(row.scopes)}. The key is shown this once; keep it safe.",
                highlight=False,
            )

    asyncio.run(_in_database(data, add))


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
        _talk.print(line, highlight=False, soft_wrap=True)

    _tell(data, sip, as_json, lambda options, db: commands.sip_apply(options, db, step))


@sip_app.command("show")
def sip_show(sip: Sip = None, as_json: AsJson = False) -> None:
    """List the trunks and rules that LiveKit has, ours and others'."""
    from trunkline.trunks import commands

    _tell(None, sip, as_json, commands.sip_show, database=False)


@app.command()
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


@app.command()
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

    _logging(settings)
    told = asyncio.run(run())
    if as_json:
        _print(told.data)
    else:
        print("\n".join(told.lines))  # noqa: T201 - data goes to standard output
    raise typer.Exit(0 if told.ok else 1)


Url = Annotated[str, typer.Option("--url", envvar="TRUNKLINE_API_URL", help="Where the API is.")]
ApiKey = Annotated[
    str, typer.Option("--key", envvar="TRUNKLINE_API_KEY", help="A key of the API: tl_…")
]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Event types, like call.*; may be repeated.")
]
_API = "http://127.0.0.1:8420"


@webhooks_app.command("listen")
def webhooks_listen(
    key: ApiKey,
    url: Url = _API,
    forward_to: Annotated[
        str | None, typer.Option(help="Post each event there, like http://localhost:3000.")
    ] = None,
    types: Types = None,
    ignore_source: Annotated[
        list[str] | None, typer.Option(help="Leave out what this source caused; may be repeated.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="whsec_… to sign with; without one a secret is made.")
    ] = None,
    after: Annotated[
        str, typer.Option(help="A cursor of the log; 'now' for what is to come, 'start' for all.")
    ] = "now",
    as_json: AsJson = False,
) -> None:
    """Receive events without a tunnel, and forward them signed as webhooks are. Needs events:read."""
    from trunkline import listen

    options = listen.ListenOptions(
        access=listen.Access(url.rstrip("/"), key),
        forward_to=forward_to,
        types=tuple(types or ("*",)),
        ignored_sources=tuple(ignore_source or ()),
        secret=secret,
        after=None if after == "start" else after,
    )

    def ready(used: str) -> None:
        where = f", forwarding to {forward_to}" if forward_to else ""
        _talk.print(f"Listening to {url}{where}. Signing secret: {used}", highlight=False)

    def tell(heard: listen.Heard) -> None:
        line = json.dumps(heard.as_json(), ensure_ascii=False) if as_json else str(heard)
        print(line, flush=True)  # noqa: T201 - data goes to standard output

    def trouble(words: str) -> None:
        _talk.print(words, style="yellow", highlight=False, markup=False, soft_wrap=True)

    async def until_stopped() -> None:
        import contextlib

        from trunkline.kit.asgi import stop_signals

        work = asyncio.create_task(listen.listen(options, ready=ready, tell=tell, trouble=trouble))
        with stop_signals(work.cancel), contextlib.suppress(asyncio.CancelledError):
            await work

    _logging()
    asyncio.run(until_stopped())


@webhooks_app.command("replay")
def webhooks_replay(
    endpoint: Annotated[str, typer.Argument(help="The endpoint: whk_…")],
    key: ApiKey,
    url: Url = _API,
    types: Types = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, in UTC.")] = None,
    call: Annotated[str | None, typer.Option(help="Only what is about this call: call_…")] = None,
    as_json: AsJson = False,
) -> None:
    """Send what happened to an endpoint once more. Needs webhooks:write."""
    from trunkline import listen

    _logging()
    count = asyncio.run(
        listen.replay(
            listen.Access(url.rstrip("/"), key),
            endpoint,
            types=tuple(types) if types else None,
            since=since and since.replace(tzinfo=UTC),
            until=until and until.replace(tzinfo=UTC),
            subject=call,
        )
    )
    if as_json:
        _print({"deliveries": count})
    else:
        _talk.print(f"{count} deliveries made.")


@webhooks_app.command("reseal")
def webhooks_reseal(data: Data = None) -> None:
    """Encrypt all stored secrets with the first of TRUNKLINE_SECRET_KEYS; then drop the old ones."""
    from trunkline.settings import Settings
    from trunkline.webhooks import service

    settings = Settings.load(trunkline_data=data)

    async def reseal(session: Any) -> None:
        count = await service.reseal(session, options=settings.endpoints())
        _talk.print(f"{count} endpoints resealed.")

    asyncio.run(_in_database(data, reseal))


async def _in_database(data: Path | None, work: Any) -> None:
    from trunkline.kit.db import check_revision, open_database
    from trunkline.settings import Settings

    db = open_database(Settings.load(trunkline_data=data).database)
    try:
        await check_revision(db)
        async with db.work() as session:
            await work(session)
    finally:
        await db.close()


def _make_data_folder(settings: Any) -> None:
    from trunkline.errors import Unavailable

    try:
        settings.trunkline_data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the data folder {settings.trunkline_data} cannot be made ({error.strerror}); "
            "choose another with --data"
        ) from error


def _missing_sandbox(error: ImportError) -> Exception:
    from trunkline.errors import Unavailable

    return Unavailable(f"{error.name} is not installed; install trunkline[sandbox]")


def _logging(settings: Any = None) -> None:
    from trunkline.kit import log

    if settings is None:
        log.configure("console", "warning")
    else:
        log.configure(settings.trunkline_log, settings.trunkline_log_level)


def _print(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))  # noqa: T201
