"""Commands for the receivers of webhooks."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli.shared import AsJson, Data, configure_logging, in_database, print_json, talk

webhooks_app = typer.Typer(help="Webhooks, from the receiver's side.", no_args_is_help=True)

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
        talk.print(f"Listening to {url}{where}. Signing secret: {used}", highlight=False)

    def tell(heard: listen.Heard) -> None:
        line = json.dumps(heard.as_json(), ensure_ascii=False) if as_json else str(heard)
        print(line, flush=True)  # noqa: T201 - data goes to standard output

    def trouble(words: str) -> None:
        talk.print(words, style="yellow", highlight=False, markup=False, soft_wrap=True)

    async def until_stopped() -> None:
        import contextlib

        from trunkline.kit.asgi import stop_signals

        work = asyncio.create_task(listen.listen(options, ready=ready, tell=tell, trouble=trouble))
        with stop_signals(work.cancel), contextlib.suppress(asyncio.CancelledError):
            await work

    configure_logging()
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

    configure_logging()
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
        print_json({"deliveries": count})
    else:
        talk.print(f"{count} deliveries made.")


@webhooks_app.command("reseal")
def webhooks_reseal(data: Data = None) -> None:
    """Encrypt all stored secrets with the first of TRUNKLINE_SECRET_KEYS; then drop the old ones."""
    from trunkline.settings import Settings
    from trunkline.webhooks import service

    settings = Settings.load(trunkline_data=data)

    async def reseal(session: Any) -> None:
        count = await service.reseal(session, options=settings.endpoints())
        talk.print(f"{count} endpoints resealed.")

    asyncio.run(in_database(data, reseal))
