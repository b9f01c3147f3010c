"""Commands that run the system: the demo and each process."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from trunkline.cli.shared import (
    AsJson,
    Data,
    configure_logging,
    missing_sandbox,
    print_json,
    talk,
)

Part = Literal["web", "courier", "guardian"]
"""What runs on this side of the database; all but the worker."""


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
    profile: Annotated[
        str,
        typer.Option(help="Which models talk: pipeline, realtime or halfcascade."),
    ] = "pipeline",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="Break the first choice of a part: part:kind@turn, as llm:500@2; part/*:kind breaks all."
        ),
    ] = None,
) -> None:
    """Place five calls with real audio, show them live, and serve the dashboard. Needs no keys."""
    try:
        from trunkline.sandbox import demo as demonstration
        from trunkline.sandbox.faults import Fault
        from trunkline.sandbox.story import VARIANTS
    except ImportError as error:
        raise missing_sandbox(error) from None
    try:
        stories = tuple(demonstration.story_keys(calls))
        for text in fault or ():
            Fault.parse(text)
        if profile not in VARIANTS:
            raise ValueError(f"{profile!r} is no profile of the demo; {', '.join(VARIANTS)} are")
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
                    variant=profile,
                )
            )
        )
    )


Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)]
Port = Annotated[
    int | None,
    typer.Option(help="Port to listen on; 0 takes any free one.", show_default=False),
]


def serve(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run everything but the worker on one machine: API, dashboard, courier, guardian."""
    _run(("web", "courier", "guardian"), data, host, port)


def web(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run the API, the dashboard and the receiver of LiveKit's webhooks."""
    _run(("web",), data, host, port)


def courier(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Publish events and deliver webhooks. --host and --port are those of /health and /ready."""
    _run(("courier",), data, host, port)


def guardian(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Watch live calls and mend them. --host and --port are those of /health and /ready."""
    _run(("guardian",), data, host, port)


def _run(parts: tuple[Part, ...], data: Path | None, host: str | None, port: int | None) -> None:
    from trunkline.cli.running import run
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    configure_logging(settings)
    asyncio.run(run(settings, parts, host=host, port=port))


def worker(data: Data = None) -> None:
    """Answer the calls that LiveKit sends for the agent `trunkline`, each in a process of its own."""
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    options = settings.worker()
    from trunkline.agent import server
    from trunkline.doctor.models import at_start
    from trunkline.kit.db import check_revision, open_database

    configure_logging(settings)

    async def look() -> None:
        db = open_database(settings.database)
        try:
            await check_revision(db)
            await at_start(settings, db)
        finally:
            await db.close()

    asyncio.run(look())
    asyncio.run(
        server.run(options, lambda port: print(f"ready {port}", flush=True))  # noqa: T201
    )


def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Look at every step between here and a real call, and say the fix of what is wrong."""
    from trunkline.doctor.examine import examine
    from trunkline.kit import log
    from trunkline.settings import Settings

    settings = Settings.load(trunkline_data=data)
    log.configure(settings.trunkline_log, "error")
    report = asyncio.run(examine(settings))
    if as_json:
        print_json(report.data)
    else:
        print("\n".join(report.lines))  # noqa: T201 - data goes to standard output
    raise typer.Exit(0 if report.ok else 1)


def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")] = 8421,
    key: Annotated[str, typer.Option(help="The API key that the providers accept.")] = "sandbox",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="Break a provider: part:kind@turn, for example llm:500@2; llm:stall%5 in five of a "
            "hundred connections."
        ),
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option(
            help="How slow: name=milliseconds, for example llm_first_token=375; spread =375~0.4; with a "
            "tail =375~0.4,2%:3000."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn for a connection.")] = 0,
) -> None:
    """Run the offline stand-ins for Deepgram, OpenAI and Cartesia, speaking their wire protocols."""
    try:
        from trunkline.sandbox import server
        from trunkline.sandbox.chance import delays
        from trunkline.sandbox.faults import Fault
        from trunkline.sandbox.options import SandboxOptions
    except ImportError as error:
        raise missing_sandbox(error) from None
    try:
        faults = tuple(Fault.parse(text) for text in fault or ())
        medians, spreads = delays(delay or ())
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
    options = SandboxOptions(
        port=port, api_key=key, delays=medians, spreads=spreads, seed=seed, faults=faults
    )
    asyncio.run(server.serve(options, ready))
