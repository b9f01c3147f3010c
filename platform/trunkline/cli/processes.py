"""Commands that run the system: the demo and each process."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.shared import (
    AsJson,
    Data,
    configure_logging,
    make_data_folder,
    missing_sandbox,
    talk,
)


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
        raise missing_sandbox(error) from None
    try:
        stories = tuple(demonstration.story_keys(calls))
        for text in fault or ():
            Fault.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    configure_logging()
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
    configure_logging(settings)
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
    make_data_folder(settings)
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
            if talk.is_terminal:
                talk.print(f"Dashboard: http://{settings.trunkline_host}:{port}/calls")

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


def worker(data: Data = None) -> None:
    """Answer the calls that LiveKit sends for the agent `trunkline`, each in a process of its own."""
    from trunkline.settings import Settings

    options = Settings.load(trunkline_data=data).worker()
    from trunkline.agent import server

    configure_logging(Settings.load(trunkline_data=data))
    asyncio.run(
        server.run(options, lambda port: print(f"ready {port}", flush=True))  # noqa: T201
    )


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
        raise missing_sandbox(error) from None
    try:
        faults = tuple(Fault.parse(text) for text in fault or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def ready(port: int) -> None:
        root = f"http://127.0.0.1:{port}"
        print(f"ready {port}", flush=True)  # noqa: T201 - for whoever started us
        talk.print(
            f"DEEPGRAM_BASE_URL={root}/deepgram/v1/listen\nOPENAI_BASE_URL={root}/openai/v1\n"
            f"CARTESIA_BASE_URL={root}/cartesia",
            highlight=False,
        )

    configure_logging()
    asyncio.run(server.serve(SandboxOptions(port=port, api_key=key, faults=faults), ready))
