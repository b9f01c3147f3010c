"""Receiving without a tunnel: the log is read, signed and forwarded to a receiver on this machine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from trunkline import listen
from trunkline.access import service as access
from trunkline.errors import Conflict, Forbidden, Invalid, TrunklineError, Unauthorized, Unavailable
from trunkline.events import SAMPLES, CallEnded, Event
from trunkline.kit import asgi
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database
from trunkline.listen import Access, Heard, ListenOptions
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.outbox.record import as_bytes, record
from trunkline.sandbox.receiver import Answer, Receiver
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks import queries, service
from trunkline.webhooks.options import EndpointOptions

KEYS = ("WkWhWz3kX0gGgCkM4wDRoJrEkXIcrQPpP5cWbqkqW5M=",)
SAMPLE = {sample.type: sample for sample in SAMPLES}
SECRET = "whsec_plJ3nmyCDGBKInavdOK15jslplJ3nmyC"


async def key(db: Database, *scopes: str) -> str:
    async with db.work() as session:
        _, token = await access.add_key(session, name="dev", scopes=scopes, now=utc_now())
    return token


@contextlib.asynccontextmanager
async def serving(db: Database, folder: Path, port: int = 0) -> AsyncIterator[str]:
    """The real server on a loopback port; its address."""
    app = create_app(
        db,
        open_blobs(BlobOptions(str(folder / "blobs"))),
        WebOptions(endpoints=EndpointOptions(KEYS)),
    )
    listener = asgi.listen("127.0.0.1", port)
    ready = asyncio.Event()
    server = asyncio.create_task(asgi.serve(app, listener, ready.set))
    try:
        await ready.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        listener.close()


class Ear:
    """Listens in a task of its own, and notes what it is told."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.troubles: asyncio.Queue[str] = asyncio.Queue()
        self.secret: asyncio.Queue[str] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def open(self, options: ListenOptions) -> AsyncIterator[str]:
        task = asyncio.create_task(
            listen.listen(
                options,
                ready=self.secret.put_nowait,
                tell=self.heard.put_nowait,
                trouble=self.troubles.put_nowait,
            )
        )
        try:
            yield await soon(self.secret.get())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def soon(what: Any) -> Any:
    async with asyncio.timeout(60):
        return await what


async def happen(db: Database, *events: Event) -> list[EventRow]:
    async with db.work() as session:
        rows = [await record(session, event, now=utc_now()) for event in events]
    published = True
    while published:
        async with db.work() as session:
            published = bool(await publish(session))
    return rows


async def test_a_receiver_at_home_gets_the_real_thing(db: Database, tmp_path: Path) -> None:
    """What happens from now on arrives with the bytes of a delivery, and its signature verifies there."""
    token = await key(db, "events:read")
    await happen(db, SAMPLE["call.started"])  # before anybody listened
    async with serving(db, tmp_path) as url, Receiver() as receiver:
        options = ListenOptions(Access(url, token), forward_to=receiver.url)
        ear = Ear()
        async with ear.open(options) as secret:
            receiver.secret = secret
            rows = await happen(db, SAMPLE["call.ended"], SAMPLE["deal.updated"])
            heard = [await soon(ear.heard.get()) for _ in rows]
        assert [each.id for each in heard] == [row.id for row in rows]
        assert [each.status for each in heard] == [200, 200]
        assert all(each.verified and each.ok for each in heard)
        assert [each.verified for each in receiver.received] == [True, True]
        assert [each.raw for each in receiver.received] == [as_bytes(row) for row in rows]
        assert [each.event_id for each in receiver.received] == [row.id for row in rows]
        assert receiver.received[0].headers["trunkline-event"] == "call.ended"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.type)
async def test_every_event_is_forwarded_byte_for_byte(
    sqlite_db: Database, tmp_path: Path, sample: Event
) -> None:
    """Reading the log and writing it again leaves each body as the outbox wrote it, any letters in it too."""
    token = await key(sqlite_db, "events:read")
    (row,) = await happen(sqlite_db, sample)
    async with serving(sqlite_db, tmp_path) as url, Receiver() as receiver:
        receiver.secret = SECRET
        ear = Ear()
        options = ListenOptions(
            Access(url, token),
            forward_to=receiver.url,
            types=("*", "transcript.turn", "dtmf.received", "endpoint.test"),
            secret=SECRET,
            after=None,
        )
        async with ear.open(options) as secret:
            assert secret == SECRET
            await soon(ear.heard.get())
        (received,) = receiver.received
        assert (received.raw, received.verified) == (as_bytes(row), True)


async def test_filters_and_own_echoes(db: Database, tmp_path: Path) -> None:
    """Only the asked-for types come, and nothing that the listener's own system caused."""
    token = await key(db, "events:read")
    own = SAMPLE["contact.updated"]  # caused by "api"
    rows = await happen(db, own, SAMPLE["call.ended"], SAMPLE["contact.created"])
    async with serving(db, tmp_path) as url:
        ear = Ear()
        options = ListenOptions(
            Access(url, token), types=("contact.*",), ignored_sources=("api",), after=None
        )
        async with ear.open(options):
            heard = await soon(ear.heard.get())
    assert (heard.id, heard.status, heard.ms, heard.ok) == (rows[2].id, None, None, True)
    assert str(heard).endswith("not forwarded")
    assert heard.as_json()["data"] == rows[2].body["data"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [(Answer(500), 500), (Answer(302, {"location": "https://example.com"}), 302)],
)
async def test_a_receiver_that_says_no_is_told_of(
    sqlite_db: Database, tmp_path: Path, answer: Answer, status: int
) -> None:
    """Anything but 2xx would not count as delivered; a redirect is not followed."""
    token = await key(sqlite_db, "events:read")
    await happen(sqlite_db, SAMPLE["call.ended"])
    async with serving(sqlite_db, tmp_path) as url, Receiver() as receiver:
        receiver.answer(answer)
        ear = Ear()
        options = ListenOptions(Access(url, token), forward_to=receiver.url, after=None)
        async with ear.open(options):
            heard = await soon(ear.heard.get())
    assert (heard.status, heard.ok) == (status, False)


async def test_a_receiver_that_is_not_there_is_told_of(sqlite_db: Database, tmp_path: Path) -> None:
    """Listening goes on, with a reason for each event that could not be forwarded."""
    token = await key(sqlite_db, "events:read")
    await happen(sqlite_db, SAMPLE["call.started"], SAMPLE["call.ended"])
    with contextlib.closing(asgi.listen("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    async with serving(sqlite_db, tmp_path) as url:
        ear = Ear()
        options = ListenOptions(Access(url, token), forward_to=nowhere, after=None)
        async with ear.open(options):
            heard = [await soon(ear.heard.get()) for _ in range(2)]
    assert all(each.error and not each.ok for each in heard)


async def test_nothing_is_missed_while_the_server_is_away(db: Database, tmp_path: Path) -> None:
    """The server stops and comes back: the trouble is told, and what happened meanwhile arrives."""
    token = await key(db, "events:read")
    ear = Ear()
    async with contextlib.AsyncExitStack() as stack:
        server = contextlib.AsyncExitStack()
        url = await server.enter_async_context(serving(db, tmp_path))
        await stack.enter_async_context(ear.open(ListenOptions(Access(url, token))))
        await server.aclose()
        (row,) = await happen(db, SAMPLE["call.ended"])
        assert "does not answer" in await soon(ear.troubles.get())
        port = int(url.rpartition(":")[2])
        await stack.enter_async_context(serving(db, tmp_path, port))
        assert (await soon(ear.heard.get())).id == row.id


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda o: {"access": Access(o.access.url, "tl_wrong")}, Unauthorized, "not valid"),
        (lambda o: {"types": ("call.endde",)}, Invalid, "did you mean 'call.ended'"),
        (lambda o: {"after": "abc"}, Invalid, "cursor"),
        (lambda o: {"secret": "whsec_☎"}, Invalid, "signing secret"),
        (lambda o: {"secret": ""}, Invalid, "signing secret"),
        (lambda o: {"access": Access("http://127.0.0.1:1", "tl_x")}, Unavailable, "serve"),
        (lambda o: {"access": Access("nonsense", "tl_x")}, Unavailable, "address"),
        (lambda o: {"access": Access(o.access.url + "/errors", "tl_x")}, TrunklineError, "address"),
    ],
)
async def test_what_is_wrong_from_the_start_is_told_at_once(
    sqlite_db: Database,
    tmp_path: Path,
    change: Callable[[ListenOptions], dict[str, Any]],
    error: type[TrunklineError],
    says: str,
) -> None:
    """A wrong key, filter, secret or address ends it with one sentence."""
    token = await key(sqlite_db, "events:read")
    async with serving(sqlite_db, tmp_path) as url:
        options = ListenOptions(Access(url, token))
        wrong = ListenOptions(**{**vars(options), **change(options)})
        nothing: Callable[[object], None] = lambda _: None  # noqa: E731
        with pytest.raises(error, match=says):
            await soon(listen.listen(wrong, ready=nothing, tell=nothing, trouble=nothing))


async def test_a_replay_goes_on_until_all_is_sent(db: Database, tmp_path: Path) -> None:
    """It follows the cursor of a long replay to its end, and tells how many deliveries that made."""
    token = await key(db, "webhooks:write")
    ended = SAMPLE["call.ended"]
    assert isinstance(ended, CallEnded)
    await happen(db, *[ended] * 1_001)
    async with db.work() as session:
        endpoint, _ = await service.add_endpoint(
            session,
            options=EndpointOptions(KEYS),
            url="https://example.com/hooks",
            events=["*"],
            now=utc_now(),
        )
    async with serving(db, tmp_path) as url:
        at = Access(url, token)
        assert await listen.replay(at, endpoint.id, until=utc_now() - timedelta(days=1)) == 0
        assert await listen.replay(at, endpoint.id, types=("call.*",)) == 1_001
        async with db.work() as session:
            assert len(await queries.deliveries(session, limit=2_000)) == 1_001
            await service.set_enabled(session, endpoint.id, False, now=utc_now())
        with pytest.raises(Conflict, match="switch it on"):
            await listen.replay(at, endpoint.id)
        with pytest.raises(Forbidden, match="webhooks:write"):
            await listen.replay(Access(url, await key(db, "events:read")), endpoint.id)
