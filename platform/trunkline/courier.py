"""EDGE: publish what was committed, and deliver it to whoever wants it.

One round gives committed events their position and makes deliveries of them; then, in one transaction,
settles the attempts that have ended, renews the leases of what is still in hand and claims what is due.
Claimed deliveries lie in a queue per endpoint and are sent from there, so that one transaction moves many.
No transaction is open while HTTP runs. Any number of couriers may run; one that dies leaves nothing behind
but leases, which end after seconds.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from trunkline.desk import retell_events
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.crypt import Sealer
from trunkline.kit.db import Database
from trunkline.kit.http import Client
from trunkline.outbox.listen import commits
from trunkline.outbox.publish import publish, waiting
from trunkline.webhooks import attempts, checks, claims, outcomes, queries, retry
from trunkline.webhooks.claims import Claimed
from trunkline.webhooks.options import CourierOptions
from trunkline.webhooks.outcomes import Outcome
from trunkline.webhooks.retry import Decision

log = structlog.get_logger()

_AWAY = (OperationalError, InterfaceError)
"""What is raised when the database is restarted, cannot be reached or stays locked."""
_NO_WAIT = timedelta(0)
_CONTENDED_WAIT = timedelta(milliseconds=20)
_AWAY_WAIT = timedelta(milliseconds=100)
"""Between two tries to reach a database that is away: a restart takes it a few hundred."""
_SLOW_S = 1.0
_LANE_EVERY = timedelta(seconds=1)
"""How often what fails again and again is settled and claimed, all of it in one transaction of its own."""
_PRUNE_EVERY = timedelta(hours=1)
_PRUNE_BATCH = 1_000


@dataclass
class _Sent:
    """An attempt under way."""

    claimed: Claimed
    hand: "_Hand"
    since_s: float
    """By the loop's clock."""


@dataclass
class _Hand:
    """What the courier holds of one endpoint."""

    queued: deque[Claimed] = field(default_factory=deque)
    sending: int = 0
    failures: int = 0
    """Attempts that failed since the last that did not: if any, one at a time will do."""
    slow: bool = False
    """Whether an attempt under way has lasted for a second."""

    @property
    def apart(self) -> bool:
        """Whether it has to do with the room of those that fail or hang, which takes none from the others."""
        return self.slow or self.failures > 0

    @property
    def held(self) -> int:
        return len(self.queued) + self.sending


class Courier:
    """Publishes and delivers until it is cancelled.

    *jitter* gives the part, from 0 to 1, of each retry's wait. Raises Misconfigured or CryptError when
    the options will not do.
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
        self._sealer = Sealer(options.endpoints.keys)
        self._allowed = checks.allowed(options.endpoints.allow)
        self._woken = asyncio.Event()
        self._hands: dict[str, _Hand] = {}
        self._under_way: dict[asyncio.Task[None], _Sent] = {}
        self._ended: list[Outcome] = []
        self._failed: list[Outcome] = []
        """Those of endpoints in the lane of the failing, which may wait for their batch."""
        self._lane_at: datetime | None = None
        self._renew_at: datetime | None = None
        self._prune_at: datetime | None = None
        self._notified = False
        self._stopping = False
        self._away = False
        """Whether the last round could not reach the database: then nothing new is sent, for it could not be
        settled, and what is queued waits for its lease to be renewed."""

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
            async with Client(
                connect=options.connect,
                max_connections=options.max_per_endpoint,
                allowed=self._allowed,
                proxy=options.proxy,
                ca_file=options.ca_file,
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
        if length <= _NO_WAIT:
            # Attempts that were just started, and those that have just ended, get their turn.
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(length.total_seconds()):
                await self._woken.wait()

    async def _finish(self) -> None:
        for hand in self._hands.values():
            # Not begun: the lease ends and another courier, or the next one, sends it.
            hand.queued.clear()
        tasks = list(self._under_way)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._options.grace.total_seconds())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._settle_last()

    async def _settle_last(self) -> None:
        """Settle what has ended; a database that is away is waited for as long as attempts would be."""
        left = await self._settle_singly(self._ended + self._failed)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.grace.total_seconds()):
                while left:
                    await asyncio.sleep(_AWAY_WAIT.total_seconds())
                    left = await self._settle_singly(left)
        for outcome in left:
            # Its lease ends and it is sent again.
            log.warning("delivery_unsettled", delivery_id=outcome.claimed.delivery_id)

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(commits(self._db)) as news:
                    async for _ in news:
                        self._notified = True
                        self.wake()
            except Exception as error:
                log.warning("courier_watch_failed", error=_first_line(error))
            await asyncio.sleep(_AWAY_WAIT.total_seconds())

    async def _guarded_round(self, client: Client) -> timedelta:
        try:
            return await self._round(client)
        except _AWAY as error:
            if not self._away:
                # Not a fault of ours that a trace would explain, and it lasts for many rounds.
                log.warning("courier_database_away", error=_first_line(error))
            self._away = True
            # Not woken by the attempts that end meanwhile: they are settled when it is back.
            await asyncio.sleep(_AWAY_WAIT.total_seconds())
            return _NO_WAIT
        except Exception:
            log.exception("courier_round_failed")
            # What cannot be settled would be sent twice: what is queued is left to its lease.
            for hand in self._hands.values():
                hand.queued.clear()
            return self._options.idle

    async def _round(self, client: Client) -> timedelta:
        """Do what can be done now, and return how long nothing more will be due."""
        options, now = self._options, self._clock()
        self._note_slow(client)
        ahead = options.max_per_endpoint * options.ahead
        held = {id_: hand.held for id_, hand in self._hands.items() if hand.held}
        # Claimed again when half of it is gone, so that each claim is worth its transaction.
        enough = [
            id_ for id_, number in held.items() if number > ahead // 2 or self._hands[id_].failures
        ]
        due: datetime | None = None
        failing_due: datetime | None = None
        # PostgreSQL wakes us for events alone, so then there is no need to look first.
        unpublished, self._notified = self._notified and self._db.dialect == "postgresql", False
        if not unpublished:
            async with self._db.look() as session:
                unpublished = await waiting(session)
                due, failing_due = await queries.next_due(session, skip=enough)
        if failing_due is not None or self._failed:
            lane_at = max(self._lane_at or now, now if self._failed else failing_due or now)
            if lane_at <= now:
                await self._failing_lane(client, now=now)
                lane_at = self._lane_at = now + _LANE_EVERY
        else:
            lane_at = None
        room = options.max_in_flight * options.ahead - sum(
            hand.held for hand in self._hands.values() if not hand.apart
        )
        if unpublished:
            # On its own, because the publishers' lock is held until it commits.
            async with self._db.work() as session:
                events = await publish(session, limit=options.batch)
                made, claimed = await claims.fan_out_in_hand(
                    session,
                    events,
                    sealer=self._sealer,
                    limit=max(room, 0),
                    per_endpoint=ahead,
                    in_flight=held,
                    lease=options.lease,
                    now=now,
                )
                await retell_events.in_format(session, claimed)
            if made > len(claimed):
                due = now
            if claimed:
                self._take(client, claimed, now=now)
                room -= len(claimed)
                held = {id_: hand.held for id_, hand in self._hands.items() if hand.held}
        renewing = held and (self._away or self._renew_at is None or now >= self._renew_at)
        if not self._ended and not renewing and (room <= 0 or due is None or due > now):
            self._away = False
            await self._prune(now)
            if unpublished:
                return _NO_WAIT
            # Where there is no room, the end of an attempt wakes the next round.
            moments = [due] if room > 0 and due else []
            if lane_at:
                moments.append(lane_at)
            if held and self._renew_at:
                moments.append(self._renew_at)
            return min([options.idle, *(moment - now for moment in moments)])
        ended, self._ended = self._ended, []
        now = self._clock()
        in_hand = [each for hand in self._hands.values() for each in hand.queued]
        in_hand += (sent.claimed for sent in self._under_way.values())
        lost: set[str] = set()
        try:
            async with self._db.work() as session:
                decisions = await outcomes.settle(session, ended, jitter=self._jitter, now=now)
                if renewing:
                    lost = await claims.renew(session, in_hand, until=now + options.lease)
                claimed = await claims.claim(
                    session,
                    sealer=self._sealer,
                    limit=max(room, 0),
                    per_endpoint=ahead,
                    in_flight=held,
                    failing=False,
                    lease=options.lease,
                    now=now,
                )
                await retell_events.in_format(session, claimed)
        except _AWAY:
            # Kept for a later round: settled then, what arrived is not sent again.
            self._ended = ended + self._ended
            raise
        except Exception:
            self._ended = await self._settle_singly(ended) + self._ended
            raise
        self._away = False
        if renewing:
            self._renewed(in_hand, lost, until=now + options.lease)
            self._renew_at = now + options.lease / 3
        self._tell(ended, decisions)
        self._take(client, claimed, now=now)
        return _NO_WAIT if claimed or ended or unpublished else _CONTENDED_WAIT

    async def _failing_lane(self, client: Client, *, now: datetime) -> None:
        """Settle and claim what fails again and again, in a transaction and a room of its own."""
        options = self._options
        apart = [hand for hand in self._hands.values() if hand.apart]
        room = options.max_in_flight - sum(hand.held for hand in apart)
        ended, self._failed = self._failed, []
        try:
            async with self._db.work() as session:
                decisions = await outcomes.settle(session, ended, jitter=self._jitter, now=now)
                claimed = await claims.claim(
                    session,
                    sealer=self._sealer,
                    limit=max(room, 0),
                    per_endpoint=options.max_per_endpoint,
                    in_flight={id_: hand.held for id_, hand in self._hands.items()},
                    failing=True,
                    lease=options.lease,
                    now=now,
                )
                await retell_events.in_format(session, claimed)
        except _AWAY:
            self._failed = ended + self._failed
            raise
        except Exception:
            self._failed = await self._settle_singly(ended) + self._failed
            raise
        self._tell(ended, decisions)
        self._take(client, claimed, now=now)

    def _note_slow(self, client: Client) -> None:
        """Move those that hang out of the others' way."""
        before_s = asyncio.get_running_loop().time() - _SLOW_S
        slow = {id(sent.hand) for sent in self._under_way.values() if sent.since_s <= before_s}
        found = False
        for hand in self._hands.values():
            found |= id(hand) in slow and not hand.slow
            hand.slow = id(hand) in slow
        if found:
            self._send(client)

    async def _prune(self, now: datetime) -> None:
        if self._prune_at is not None and now < self._prune_at:
            return
        self._prune_at = now + _PRUNE_EVERY
        async with self._db.work() as session:
            gone = await outcomes.prune(
                session,
                delivered_before=now - self._options.keep_delivered,
                failed_before=now - self._options.keep_failed,
                limit=_PRUNE_BATCH,
            )
        if gone >= _PRUNE_BATCH:
            self._prune_at = now

    async def _settle_singly(self, ended: Sequence[Outcome]) -> list[Outcome]:
        """Settle each in its own transaction, so that one that cannot be stored spoils no other; return those
        that may still be, once the database can be reached."""
        left = []
        for outcome in ended:
            try:
                async with self._db.work() as session:
                    decisions = await outcomes.settle(
                        session, [outcome], jitter=self._jitter, now=self._clock()
                    )
            except _AWAY:
                left.append(outcome)
            except Exception:
                # Its lease ends and it is tried again.
                log.exception("delivery_unsettled", delivery_id=outcome.claimed.delivery_id)
            else:
                self._tell([outcome], decisions)
        return left

    def _renewed(
        self, in_hand: Sequence[Claimed], lost: Collection[str], *, until: datetime
    ) -> None:
        for each in in_hand:
            if each.delivery_id not in lost:
                each.leased_until = until
        if lost:
            # Their leases ended first, and another courier has them.
            for hand in self._hands.values():
                hand.queued = deque(each for each in hand.queued if each.delivery_id not in lost)

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

    def _take(self, client: Client, claimed: Sequence[Claimed], *, now: datetime) -> None:
        """Take in hand what was claimed at *now*, and begin to send it."""
        if not any(hand.held for hand in self._hands.values()):
            self._renew_at = now + self._options.lease / 3
        for each in claimed:
            hand = self._hands.setdefault(each.endpoint_id, _Hand(failures=each.failures))
            hand.queued.append(each)
        self._send(client)

    def _send(self, client: Client) -> None:
        """Start attempts for what is queued: one for each endpoint in turn, as far as there is room.

        Those that fail or hang have as much room as all others together, and none of theirs.
        """
        if self._away:
            return
        options, now = self._options, self._clock()
        sending = {False: 0, True: 0}
        for hand in self._hands.values():
            sending[hand.apart] += hand.sending
        ready = deque(self._hands)
        while ready:
            id_ = ready.popleft()
            hand = self._hands[id_]
            share = 1 if hand.failures else options.max_per_endpoint
            if hand.queued and hand.queued[0].leased_until <= now:
                # We were held up for longer than the lease: first see what is still ours.
                self._renew_at = None
                self.wake()
            elif hand.queued and hand.sending < share:
                if sending[hand.apart] < options.max_in_flight:
                    sending[hand.apart] += 1
                    self._start(client, hand, hand.queued.popleft())
                    ready.append(id_)
            elif not hand.held:
                del self._hands[id_]

    def _start(self, client: Client, hand: _Hand, claimed: Claimed) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            del self._under_way[task]
            hand.sending -= 1
            if not self._stopping:
                self._send(client)
            self.wake()

        task = asyncio.create_task(self._deliver(client, hand, claimed))
        hand.sending += 1
        self._under_way[task] = _Sent(claimed, hand, asyncio.get_running_loop().time())
        task.add_done_callback(ended)

    async def _deliver(self, client: Client, hand: _Hand, claimed: Claimed) -> None:
        try:
            outcome = await attempts.attempt(
                client,
                claimed,
                total=self._options.total,
                max_body_bytes=self._options.max_body_bytes,
                clock=self._clock,
            )
        except Exception:
            # Its lease ends and it is tried again.
            log.exception("delivery_unattempted", delivery_id=claimed.delivery_id)
            return
        arrived = outcome.status is not None and 200 <= outcome.status < 300
        hand.failures = 0 if arrived else hand.failures + 1
        if hand.failures < retry.FAILING_FROM:
            self._ended.append(outcome)
        else:
            self._failed.append(outcome)


def _first_line(error: Exception) -> str:
    told = str(getattr(error, "orig", None) or error).strip()
    return told.splitlines()[0] if told else type(error).__name__
