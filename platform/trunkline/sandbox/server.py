"""The sandbox's one local server: three providers' wire protocols, each under its own path.

``/deepgram``, ``/openai`` and ``/cartesia`` are where the provider plugins' ``base_url`` points;
``/health`` says that all is up. Ears and voice are child processes.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from trunkline.errors import TrunklineError
from trunkline.kit import asgi
from trunkline.kit.processes import ChildDied, die_with_parent
from trunkline.sandbox import aura, cartesia, deepgram, flux, openai, openai_audio, realtime
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.chance import PerConnection, delays
from trunkline.sandbox.ears import Ears, Listener
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.options import SandboxOptions
from trunkline.sandbox.script import ScriptEars, known
from trunkline.sandbox.voice import Voice


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def serve(options: SandboxOptions, on_ready: Callable[[int], None]) -> None:
    """Run until SIGTERM or SIGINT, or until cancelled; the children are stopped then.

    *on_ready* gets the port once everything answers. Raises PortTaken, and ChildDied
    if ears or voice don't start.
    """
    listener = asgi.listen(options.host, options.port)
    port: int = listener.getsockname()[1]
    async with contextlib.AsyncExitStack() as children:
        children.callback(listener.close)
        brain = Brain.load()
        voice = await Voice.start()
        children.push_async_callback(voice.close)
        ears: Listener = ScriptEars(known())
        if options.ears == "grammar":
            heavy = await Ears.start(brain.grammar())
            children.push_async_callback(heavy.close)
            ears = heavy
        app = Starlette(
            routes=[
                Route("/health", _health),
                *(
                    Mount(path, app=PerConnection(make, options))
                    for path, make in _providers(brain, ears, voice).items()
                ),
            ]
        )
        serving = asyncio.create_task(asgi.serve(app, listener, lambda: on_ready(port)))
        with asgi.stop_signals(serving.cancel):
            try:
                await serving
            except asyncio.CancelledError:
                # By a signal that is the end asked for; by whoever runs us it is theirs to know.
                task = asyncio.current_task()
                if task and task.cancelling():
                    raise


_Make = Callable[[SandboxOptions], Sequence[BaseRoute]]


def _providers(brain: Brain, ears: Listener, voice: Voice) -> dict[str, _Make]:
    """Path → the routes below it."""
    return {
        "/deepgram": lambda options: [
            *deepgram.routes(ears, options),
            *flux.routes(ears, options),
            *aura.routes(voice, options),
        ],
        "/openai": lambda options: [
            *openai_audio.routes(ears, voice, options),
            *realtime.routes(brain, ears, voice, options),
            *openai.routes(brain, options),
        ],
        "/cartesia": lambda options: cartesia.routes(voice, options),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server as a process of its own; prints ``ready <port>`` once everything answers.

    Returns the exit code: 0 stopped, 1 with one sentence on standard error; 2 for wrong arguments.
    """
    default = SandboxOptions()
    parser = argparse.ArgumentParser(prog="trunkline.sandbox.server")
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=default.port, help="0 for any free one")
    parser.add_argument("--key", default=default.api_key)
    parser.add_argument("--ears", choices=("grammar", "script"), default=default.ears)
    parser.add_argument("--fault", action="append", default=[], metavar="part:kind@turn%%chance")
    parser.add_argument(
        "--delay", action="append", default=[], metavar="name=milliseconds~sigma,chance%%:tail"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="of all that is drawn")
    parser.add_argument(
        "--realtime-session",
        type=float,
        default=default.realtime_session.total_seconds(),
        metavar="SECONDS",
        help="how long one Realtime session may last",
    )
    given = parser.parse_args(arguments)
    try:
        medians, spreads = delays(given.delay)
        options = SandboxOptions(
            host=given.host,
            port=given.port,
            api_key=given.key,
            ears=given.ears,
            delays=medians,
            spreads=spreads,
            seed=given.seed,
            faults=tuple(Fault.parse(text) for text in given.fault),
            realtime_session=timedelta(seconds=given.realtime_session),
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(serve(options, lambda port: print(f"ready {port}", flush=True)))  # noqa: T201
    except (TrunklineError, ChildDied, asgi.PortTaken) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
