"""What ours is compared with: a straightforward sender of procrastinate and httpx.

One job for each delivery, which signs the body and posts it with a shared ``httpx.AsyncClient``; the
library's worker retries with exponential waits. It keeps no log of attempts, checks no address, is fair to no
endpoint and keeps no order. Procrastinate is no dependency of this project:
``uv run --with procrastinate python -m tests.bench.webhooks``.
"""

import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook
from tests.bench.sink import Sink

from trunkline.webhooks.signing import new_secret

_IN_FLIGHT = 16
"""Jobs at the same time in each worker."""
_TOTAL_S = 15.0


class NotInstalled(Exception):
    """Procrastinate is not there; the message says how to run with it."""


class Late(Exception):
    """The baseline did not send all of it in time; the message says how much."""


def _app(conninfo: str, client: httpx.AsyncClient | None = None) -> Any:
    try:
        procrastinate = importlib.import_module("procrastinate")
    except ImportError as error:
        raise NotInstalled(
            "no baseline; for one: uv run --with procrastinate python -m tests.bench.webhooks"
        ) from error
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
    retry = procrastinate.RetryStrategy(max_attempts=9, exponential_wait=5)

    @app.task(name="send", retry=retry)  # type: ignore[untyped-decorator, unused-ignore]
    async def send(url: str, secret: str, event_id: str, body: str) -> None:
        assert client is not None
        now = datetime.now(UTC)  # noqa: DTZ005, RUF100 - a program of its own
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(event_id, now, body),
        }
        answer = await client.post(url, content=body.encode(), headers=headers)
        answer.raise_for_status()

    app.send = send
    return app


async def _work(conninfo: str) -> None:
    limits = httpx.Limits(max_connections=_IN_FLIGHT, max_keepalive_connections=_IN_FLIGHT)
    async with httpx.AsyncClient(timeout=_TOTAL_S, limits=limits, trust_env=False) as client:
        app = _app(conninfo, client)
        async with app.open_async():
            await app.run_worker_async(concurrency=_IN_FLIGHT)


async def sustained(conninfo: str, *, deliveries: int, workers: int) -> float:
    """Deliveries in a second from a backlog, to four endpoints, all verified. Raises NotInstalled, Late."""
    app, sink = _app(conninfo), Sink()
    await sink.open()
    secrets = {f"live{n}": new_secret() for n in range(4)}
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        jobs = []
        for number in range(deliveries):
            path = f"live{number % 4}"
            data = {"call_id": f"call_{number % 20}", "turns": number, "seq": number}
            body = {"type": "transcript.ready", "timestamp": "2026-01-15T09:30:00Z", "data": data}
            jobs.append(
                {
                    "url": sink.url(path),
                    "secret": secrets[path],
                    "event_id": f"evt_{number}",
                    "body": json.dumps(body, separators=(",", ":")),
                }
            )
        await app.send.batch_defer_async(*jobs)
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.procrastinate_sender", conninfo
        )
        for _ in range(workers)
    ]
    try:
        if not await sink.until(lambda got: len(got) >= deliveries, within_s=180):
            raise Late(f"of the baseline only {len(sink.got)} of {deliveries} arrived in 180 s")
    finally:
        for each in running:
            each.terminate()
        await asyncio.gather(*(each.wait() for each in running))
    assert sink.verified(secrets) == len(sink.got)
    await sink.close()
    middle = sorted(each.at for each in sink.got)[deliveries // 4 : -20]
    return len(middle) / (middle[-1] - middle[0])


async def main(arguments: Sequence[str]) -> None:
    """Be a worker until killed."""
    await _work(arguments[0])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
