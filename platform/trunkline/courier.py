"""EDGE: publish what was committed, and deliver it to whoever wants it.

One round gives committed events their position and makes deliveries of them; then, in one transaction,
settles the attempts that have ended and claims what is due; then starts an attempt for each. No
transaction is open while HTTP runs. Any number of couriers may run; one that dies leaves nothing behind
but leases, which end.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta

import httpx
import structlog

from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database
from trunkline.kit.http import HttpFailed, exchange, open_client
from trunkline.outbox.listen import commits
from trunkline.outbox.publish import publish, waiting
from trunkline.webhooks import queries, service, signing
from trunkline.webhooks.options import CourierOptions
from trunkline.webhooks.retry import Decision
from trunkline.webhooks.service import Claimed, Outcome

log = structlog.get_logger()

_NO_WAIT = timedelta(0)
_CONTENDED_WAIT = timedelta(milliseconds=20)


class Courier:
    """Publishes and delivers until it is cancelled.

    *jitter* gives the part, from 0 to 1, of each retry's wait.
    """

    def __init__(
        self,
        db: Database,
        options: CourierOptions,
        clock: Clock = utc_now,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._options = options
        self._clock = clock
        self._jitter = jitter
        self._woken = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._ended: list[Outcome] = []
        self._stopping = False

    def wake(self) -> None:
        """Look now instead of at the next commit or due time."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; attempts under way then get a few seconds to end. Run it once.

        A round that fails is logged and tried again: nothing but cancelling ends this. Cancelled a second
        time it ends at once; what it then leaves is sent again when its lease ends.
        """
        work = asyncio.create_task(self._work())
        try:
            # Shielded, so that no transaction is cut off between its commit and our knowing of it.
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping = True
            self.wake()
            try:
                await work
            finally:
                work.cancel()
            raise

    async def _work(self) -> None:
        options = self._options
        watcher = asyncio.create_task(self._watch())
        try:
            async with open_client(
                connect=options.connect, total=options.total, max_connections=options.max_in_flight
            ) as client:
                try:
                    while not self._stopping:
                        self._woken.clear()
                        await self._pause(await self._guarded_round(client))
                finally:
                    await self._finish()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _pause(self, length: timedelta) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(length.total_seconds()):
                await self._woken.wait()

    async def _finish(self) -> None:
        tasks = list(self._under_way)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._options.grace.total_seconds())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._settle_singly(self._ended)

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(commits(self._db)) as news:
                    async for _ in news:
                        self.wake()
            except Exception:
                log.warning("courier_watch_failed", exc_info=True)
            await asyncio.sleep(self._options.idle.total_seconds())

    async def _guarded_round(self, client: httpx.AsyncClient) -> timedelta:
        try:
            return await self._round(client)
        except Exception:
            log.exception("courier_round_failed")
            return self._options.idle

    async def _round(self, client: httpx.AsyncClient) -> timedelta:
        """Do what can be done now, and return how long nothing more will be due."""
        options, now = self._options, self._clock()
        in_flight = Counter(self._under_way.values())
        full = [id_ for id_, number in in_flight.items() if number >= options.max_per_endpoint]
        async with self._db.look() as session:
            unpublished = await waiting(session)
            due = await queries.next_due(session, skip=full)
        if unpublished:
            # On its own, because the publishers' lock is held until it commits.
            async with self._db.work() as session:
                events = await publish(session, limit=options.batch)
                if await service.fan_out(session, events, now=now):
                    due = now
        # Where there is no room, the end of an attempt wakes the next round.
        room = options.max_in_flight - len(self._under_way)
        if not self._ended and (not room or due is None or due > now):
            if unpublished:
                return _NO_WAIT
            return min(due - now, options.idle) if room and due else options.idle
        ended, self._ended = self._ended, []
        now = self._clock()
        try:
            async with self._db.work() as session:
                decisions = await service.settle(session, ended, jitter=self._jitter, now=now)
                claimed = await service.claim(
                    session,
                    limit=room,
                    per_endpoint=options.max_per_endpoint,
                    in_flight=in_flight,
                    lease=options.lease,
                    now=now,
                )
        except Exception:
            await self._settle_singly(ended)
            raise
        self._tell(ended, decisions)
        for each in claimed:
            self._start(client, each)
        return _NO_WAIT if claimed or ended or unpublished else _CONTENDED_WAIT

    async def _settle_singly(self, ended: Sequence[Outcome]) -> None:
        """Settle each in its own transaction, so that one that cannot be stored spoils no other."""
        for outcome in ended:
            try:
                async with self._db.work() as session:
                    decisions = await service.settle(
                        session, [outcome], jitter=self._jitter, now=self._clock()
                    )
            except Exception:
                # Its lease ends and it is tried again.
                log.exception("delivery_unsettled", delivery_id=outcome.claimed.delivery_id)
            else:
                self._tell([outcome], decisions)

    def _tell(self, ended: Sequence[Outcome], decisions: Sequence[Decision]) -> None:
        for outcome, decision in zip(ended, decisions, strict=True):
            log.info(
                "delivery_attempted",
                delivery_id=outcome.claimed.delivery_id,
                endpoint_id=outcome.claimed.endpoint_id,
                event_type=outcome.claimed.event_type,
                attempt=outcome.claimed.number,
                status=outcome.status,
                error=outcome.error,
                ms=outcome.ms,
                decision=type(decision).__name__,
            )

    def _start(self, client: httpx.AsyncClient, claimed: Claimed) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            del self._under_way[task]
            self.wake()

        task = asyncio.create_task(self._deliver(client, claimed))
        self._under_way[task] = claimed.endpoint_id
        task.add_done_callback(ended)

    async def _deliver(self, client: httpx.AsyncClient, claimed: Claimed) -> None:
        try:
            outcome = await self._attempt(client, claimed)
        except Exception:
            # Its lease ends and it is tried again.
            log.exception("delivery_unattempted", delivery_id=claimed.delivery_id)
        else:
            self._ended.append(outcome)

    async def _attempt(self, client: httpx.AsyncClient, claimed: Claimed) -> Outcome:
        options, started_at = self._options, self._clock()
        headers = {
            "content-type": "application/json",
            "user-agent": "trunkline",
            **signing.headers(
                claimed.body, event_id=claimed.event_id, at=started_at, secrets=claimed.secrets
            ),
        }
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            reply = await exchange(
                client,
                "POST",
                claimed.url,
                headers=headers,
                content=claimed.body,
                total=options.total,
                max_body_bytes=options.max_body_bytes,
            )
        except HttpFailed as failure:
            return Outcome(
                claimed, started_at, _ms(loop.time() - began), headers, error=str(failure)
            )
        return Outcome(
            claimed,
            started_at,
            _ms(loop.time() - began),
            headers,
            status=reply.status,
            error=reply.problem,
            response_headers=reply.headers,
            response_body=reply.body,
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
