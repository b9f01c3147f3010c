"""Child processes of our own modules that never outlive their parent.

A child's standard input is a pipe that nobody writes to and whose other end only the parent holds.
The kernel closes that end when the parent dies, also by SIGKILL; the child reads end-of-file and
leaves. This needs neither a signal nor ``PR_SET_PDEATHSIG``, so it holds on Linux and macOS alike.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

_MARK = "TRUNKLINE_DIES_WITH_PARENT"
_TAIL_LINES = 20
_LINE_LIMIT_BYTES = 1 << 20

Listener = Callable[[str], None]


class ChildDied(Exception):
    """A child process ended, or had to be ended, before it said that it was ready."""

    def __init__(self, module: str, how: str, last_words: str) -> None:
        said = f"; its last words:\n{last_words}" if last_words else ""
        super().__init__(f"{module} {how}{said}")
        self.module = module
        self.last_words = last_words
        """The last lines of its standard error, empty if it wrote none."""


def die_with_parent() -> None:
    """End this process as soon as the process that spawned it is gone.

    Call it first in a child's main. Does nothing in a process that :func:`spawn` did not start.
    Standard input then belongs to this module.
    """
    # Taken out, so that what this process starts by other means doesn't mistake its input for ours.
    if os.environ.pop(_MARK, None) is None:
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


async def spawn(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    on_line: Listener | None = None,
    on_error_line: Listener | None = None,
) -> "Child":
    """Start ``python -m module arguments…`` as a child that calls :func:`die_with_parent`.

    *env* is added to this process's own environment. *on_line* gets what the child writes to
    standard output, except its ready line; *on_error_line* what it writes to standard error. Both
    streams are read whether or not anyone listens, so a full pipe never stops the child.
    The child is in a session of its own: Ctrl-C reaches the parent alone, which stops its children.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {}), _MARK: "1", "PYTHONUNBUFFERED": "1"},
        limit=_LINE_LIMIT_BYTES,
        start_new_session=True,
    )
    return Child(module, process, on_line, on_error_line)


class Child:
    """One running child process; made by :func:`spawn`."""

    def __init__(
        self,
        module: str,
        process: asyncio.subprocess.Process,
        on_line: Listener | None,
        on_error_line: Listener | None,
    ) -> None:
        self.module = module
        self._process = process
        self._on_line = on_line
        self._on_error_line = on_error_line
        self._ready: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        assert process.stdout is not None
        assert process.stderr is not None
        self._pumps = (
            asyncio.create_task(self._pump(process.stdout, self._heard)),
            asyncio.create_task(self._pump(process.stderr, self._complained)),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.returncode

    async def ready(self, timeout: timedelta) -> str:  # noqa: ASYNC109 — says why it failed
        """Wait for the child's line ``ready …`` and return what follows the word ``ready``.

        Raises ChildDied, with the last lines of its standard error, if the child ends first or
        isn't ready within *timeout*; in that case it has been killed.
        """
        seconds = timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                word = await asyncio.shield(self._ready)
                if word is None:
                    await self._process.wait()
        except TimeoutError:
            await self.stop(timedelta(0))
            raise ChildDied(
                self.module, f"was not ready within {seconds:g} s", "\n".join(self._tail)
            ) from None
        if word is None:
            await self.wait()
            how = f"ended with code {self.returncode} before it was ready"
            raise ChildDied(self.module, how, "\n".join(self._tail))
        return word

    async def wait(self) -> int:
        """Wait until the child has ended and its last line was handed on; return its exit code."""
        code = await self._process.wait()
        # A stranger that inherited the pipes may hold them open after the child's end.
        await asyncio.wait(self._pumps, timeout=1)
        return code

    async def stop(self, grace: timedelta) -> None:
        """Ask the child to end (SIGTERM), and kill it when *grace* is over. May be called again."""
        if self.returncode is None:
            self._send(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace.total_seconds()):
                    await self._process.wait()
            except TimeoutError:
                self._send(signal.SIGKILL)
        await self.wait()
        for pump in self._pumps:
            pump.cancel()
        if self._process.stdin:
            self._process.stdin.close()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _pump(self, stream: asyncio.StreamReader, hear: Listener) -> None:
        try:
            while True:
                try:
                    line = await stream.readline()
                except ValueError:  # longer than the limit: asyncio has dropped it
                    continue
                if not line:
                    return
                hear(line.decode(errors="replace").rstrip("\r\n"))
        finally:
            if hear == self._heard and not self._ready.done():
                self._ready.set_result(None)

    def _heard(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "ready" and not self._ready.done():
            self._ready.set_result(rest)
        elif self._on_line:
            self._tell(self._on_line, line)

    def _complained(self, line: str) -> None:
        self._tail.append(line)
        if self._on_error_line:
            self._tell(self._on_error_line, line)

    @staticmethod
    def _tell(listener: Listener, line: str) -> None:
        # Not called from the pump: a listener that raises must not stop the reading.
        asyncio.get_running_loop().call_soon(listener, line)
