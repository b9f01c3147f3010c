"""Serve an ASGI application from a running event loop, on a socket that is bound first."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

GRACE_S = 1
"""How long open requests may go on once the server is told to stop."""


class PortTaken(Exception):
    """The address cannot be listened on; the message says what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on *host*:*port*; 0 takes any free port. Raises PortTaken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise PortTaken(
            f"cannot listen on {host}:{port} ({why}); choose another port, or 0 for any free one"
        ) from None
    return listener


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens, and leaves the process's signals alone.

    Left to itself it would end the process by the same signal again before its owner has cleaned up.
    """

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


async def serve(app: Any, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve *app* on *listener* until cancelled; open requests then get GRACE_S to end."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, on_ready)
    running = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        await running
        raise


@contextlib.contextmanager
def stop_signals(on_stop: Callable[[], object]) -> Generator[None, None, None]:
    """Call *on_stop* at SIGTERM or SIGINT while the block runs."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, on_stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
