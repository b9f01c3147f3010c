"""``trunkline doctor``: what is whole is said to be, what is broken is named with its fix."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trunkline.doctor import house, lines, livekit, people, providers, report
from trunkline.doctor.examine import examine
from trunkline.doctor.report import Finding, Findings
from trunkline.kit import asgi
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.kit.processes import spawn
from trunkline.settings import Settings
from trunkline.trunks.provision import Destination

if TYPE_CHECKING:
    from tests.wire.conftest import ServeIdentity

BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("TRUNKLINE_", "LIVEKIT_", "DEEPGRAM_", "OPENAI_", "CARTESIA_"))
}
KEY = "the-right-key"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests are not the tests'."""
    for name in os.environ.keys() - BARE.keys():
        monkeypatch.delenv(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(tmp_path: Path, **given: Any) -> Settings:
    """Settings of this test alone; every port is one that nobody listens on."""
    ports = {
        f"trunkline_{name}": free_port()
        for name in ("port", "worker_port", "courier_port", "guardian_port")
    }
    return Settings.load(env_file=None, **{"trunkline_data": tmp_path / "data", **ports, **given})


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """*app* on a port of loopback."""
    listener = asgi.listen("127.0.0.1", 0)
    started = asyncio.Event()
    task = asyncio.create_task(asgi.serve(app, listener, started.set))
    try:
        await started.wait()
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


def the(findings: Findings, what: str) -> Finding:
    """The one finding about *what*."""
    (found,) = [one for one in findings if one.what == what]
    return found


async def test_on_a_bare_machine_everything_missing_is_named(tmp_path: Path) -> None:
    """Exit code 1; each line says what to do; nothing that depends on something absent is guessed at."""
    env = {**BARE, "TRUNKLINE_PORT": str(free_port())}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "doctor", "--json",
        cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (1, "")
    told = json.loads(out)
    found = {one["what"]: one for one in told["findings"]}
    assert told["ok"] is False
    assert "LIVEKIT_URL" in found["complete"]["says"]
    assert found["database"]["fix"] == "run: trunkline db upgrade"
    assert "trunkline serve" in found["web"]["fix"]
    assert [found[name]["ok"] for name in ("Deepgram", "reachable", "TRUNKLINE_SIP_HOST")] == [
        None
    ] * 3
    assert found["trunks, rules and numbers"]["says"] == (
        "not looked at without the database and LiveKit"
    )
    assert not (tmp_path / ".trunkline" / "trunkline.db").exists(), "looking makes no database"
    assert not (tmp_path / ".trunkline" / "secret.key").exists()
    assert all(one["fix"] for one in told["findings"] if one["ok"] is False)


async def test_people_see_the_same(tmp_path: Path) -> None:
    """A mark, what, what is so, and below it what to do; the last line counts."""
    told = await examine(settings(tmp_path))
    assert "  ✗ database: there is no database yet at" in "\n".join(told.lines)
    assert "      → run: trunkline db upgrade" in told.lines
    assert told.lines[-1] == f"{sum(one.ok is False for one in told.findings)} to mend."
    assert report.Report((Finding("data", "x", True, "fine"), Finding("data", "y", None, "?"))).ok


# --- providers --------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[str]:
    """The sandbox's providers, which take KEY."""
    child = await spawn("trunkline.sandbox.server", "--key", KEY)
    try:
        yield f"http://127.0.0.1:{await child.ready(timedelta(seconds=60))}"
    finally:
        await child.stop(timedelta(seconds=5))


def at_sandbox(root: str, tmp_path: Path, **keys: str) -> Settings:
    given = {f"{name.lower()}_api_key": keys.get(name, KEY) for name in providers.NAMES}
    return settings(
        tmp_path,
        deepgram_base_url=f"{root}/deepgram/v1/listen",
        openai_base_url=f"{root}/openai/v1",
        cartesia_base_url=f"{root}/cartesia",
        **given,
    )


@pytest.mark.parametrize("refused", [None, *providers.NAMES])
async def test_the_provider_that_refuses_its_key_is_named(
    sandbox: str, tmp_path: Path, refused: str | None
) -> None:
    """Each provider is asked with its own key; the one that refuses is named, the others are not."""
    given = at_sandbox(sandbox, tmp_path, **({refused: "wrong"} if refused else {}))
    async with httpx.AsyncClient() as client:
        found = [(await providers.provider(client, given, name))[0] for name in providers.NAMES]
    assert [one.ok for one in found] == [name != refused for name in providers.NAMES]
    for one in found:
        if not one.ok:
            assert f"{one.what.upper()}_API_KEY" in one.says
            assert "make a new key at https://" in (one.fix or "")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "lets it do too little"),  # a key of restricted rights
        (402, "the credit or the rate is used up"),  # Cartesia, Deepgram
        (429, "the credit or the rate is used up"),  # OpenAI
        (500, "answers 500"),
        (404, "answers 404"),  # a base URL that is none
    ],
)
async def test_other_refusals_are_told_apart(tmp_path: Path, status: int, says: str) -> None:
    """A key that is right but not enough is no wrong key."""
    app = Starlette(routes=[Route("/{rest:path}", lambda request: Response(status_code=status))])
    async with serving(app) as port, httpx.AsyncClient() as client:
        given = at_sandbox(f"http://127.0.0.1:{port}", tmp_path)
        (found,) = await providers.provider(client, given, "OpenAI")
    assert (found.ok, says in found.says) == (False, True)
    assert found.fix


async def test_a_provider_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    """No connection: why, and that callers would hear an apology."""
    given = at_sandbox(f"http://127.0.0.1:{free_port()}", tmp_path, Cartesia="ключ")
    async with httpx.AsyncClient() as client:
        (nobody,) = await providers.provider(client, given, "Deepgram")
        (no_key,) = await providers.provider(client, given, "Cartesia")
    assert "the connection was refused" in nobody.says
    assert "holds characters that no key has" in no_key.says


# --- our own house ----------------------------------------------------------------------------------


async def test_the_database_and_its_clock(db: Database, db_url: str, tmp_path: Path) -> None:
    """One at the right revision is whole; another clock on its machine is told, with NTP as the fix."""
    (found,) = await house.database(db)
    assert (found.ok, db.dialect in found.says) == (True, True)
    (agrees,) = await house.database_clock(db, utc_now)
    (apart,) = await house.database_clock(db, lambda: utc_now() + timedelta(minutes=5))
    if db.dialect == "sqlite":
        assert agrees.ok is apart.ok is None
    else:
        assert (agrees.ok, apart.ok) == (True, False)
        assert "300 s ahead of it" in apart.says
        assert "NTP" in (apart.fix or "")
    async with house.opened(settings(tmp_path, trunkline_database_url=db_url)) as opened:
        assert isinstance(opened, Database)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "cannot be opened"),
        ("nonsense", "is no database address"),
    ],
)
async def test_a_database_that_is_not_there(tmp_path: Path, url: str, says: str) -> None:
    """Why, and what to check; the password is not repeated."""
    async with house.opened(settings(tmp_path, trunkline_database_url=url)) as opened:
        (found,) = await house.database(opened)
    assert (found.ok, says in found.says) == (False, True)
    assert found.fix
    assert "secret" not in found.says


async def test_recordings_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be is told; what was tried leaves nothing behind."""
    whole = settings(tmp_path)
    (found,) = await house.blobs(whole)
    assert found.ok
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    (tmp_path / "file").write_text("in the way")
    (found,) = await house.blobs(settings(tmp_path, trunkline_data=tmp_path / "file"))
    assert (found.ok, "cannot be written" in found.says) == (False, True)


async def test_a_full_disk_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the least that should be free there is a fix; above it the number alone."""
    (found,) = await house.disk(settings(tmp_path))
    monkeypatch.setattr(house, "LEAST_FREE_BYTES", 10**18)
    (short,) = await house.disk(settings(tmp_path))
    assert (short.ok, "GB free" in found.says) == (False, True)
    assert "TRUNKLINE_BLOBS_URL" in (short.fix or "")


def test_keys_for_secrets(tmp_path: Path) -> None:
    """A key of the wrong form is told without repeating it; none at all is no fault on one machine."""
    (none,) = house.secret_keys(settings(tmp_path))
    (wrong,) = house.secret_keys(settings(tmp_path, trunkline_secret_keys="too-short"))
    (right,) = house.secret_keys(settings(tmp_path, trunkline_secret_keys=new_key()))
    assert (none.ok, wrong.ok, right.ok) == (None, False, True)
    assert "too-short" not in wrong.says


@pytest.mark.parametrize(
    ("status", "body", "ok", "says"),
    [
        (200, {"ready": True, "problems": [], "calls": [{"room": "a"}]}, True, "1 calls on"),
        (503, {"ready": False, "problems": ["LiveKit is away; do this"]}, False, "LiveKit is away"),
        (503, {"detail": "the database is at revision 1"}, False, "the database is at revision 1"),
    ],
)
async def test_what_a_process_says_of_itself(
    status: int, body: dict[str, Any], ok: bool, says: str
) -> None:
    """/ready of the worker, the courier and the guardian, and the problem that web answers with."""
    app = Starlette(routes=[Route("/ready", lambda request: JSONResponse(body, status))])
    async with serving(app) as port, httpx.AsyncClient() as client:
        (found,) = await house.process(client, "worker", "0.0.0.0", port)  # noqa: S104
    assert (found.ok, says in found.says) == (ok, True)


async def test_one_check_that_breaks_or_hangs_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own line says so."""
    monkeypatch.setattr(report, "LIMIT", timedelta(milliseconds=10))

    async def hangs() -> Findings:
        await asyncio.Event().wait()
        return []

    async def breaks() -> Findings:
        raise RuntimeError("surprise")

    (hung,) = await report.bounded("data", "x", hangs())
    (broke,) = await report.bounded("data", "y", breaks())
    assert "no answer within" in hung.says
    assert "RuntimeError: surprise" in broke.says


# --- LiveKit and the lines ---------------------------------------------------------------------------


async def test_livekit_that_is_not_there(tmp_path: Path) -> None:
    """Nobody at its address, or no address at all: one line says so, and no other asks there."""
    given = {"livekit_api_key": "k", "livekit_api_secret": "s" * 32}
    for url, says in ((f"ws://127.0.0.1:{free_port()}", "cannot be reached"), ("nowhere", "is no")):
        told = await examine(settings(tmp_path, livekit_url=url, **given))
        assert [one.what for one in told.findings if one.group == "livekit"] == ["reachable"]
        found = the(told.findings, "reachable")
        assert (found.ok, says in found.says, bool(found.fix)) == (False, True, True)


@pytest.mark.parametrize(
    ("url", "leaves"),
    [
        ("wss://house-1234.livekit.cloud", True),
        ("ws://127.0.0.1:7880", False),
        ("wss://livekit.cloud.example.com", False),  # a name that only looks like it
    ],
)
def test_cloud_is_told_by_its_name(tmp_path: Path, url: str, leaves: bool) -> None:
    """With LiveKit Cloud the same settings work; what then leaves the house is said, and is no fault."""
    given = settings(tmp_path, livekit_url=url, livekit_api_key="k", livekit_api_secret="s" * 32)
    found = livekit.leaves_the_house(given)
    assert [one.ok for one in found] == ([None] if leaves else [])
    if leaves:
        assert "the sound of every call" in found[0].says
        assert "TRUNKLINE_SIP_HOST" in (found[0].fix or "")
    assert given.livekit is not None
    assert given.livekit.url == url


class SipServer(asyncio.DatagramProtocol):
    """Answers OPTIONS as livekit-sip does, with *answer*."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked = answer, list[bytes]()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append(data)
        self.transport.sendto(self.answer, addr)

    async def on_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def sip_server(udp: bool = True, tcp: bool = True) -> AsyncIterator[tuple[int, SipServer]]:
    loop, server, port = (
        asyncio.get_running_loop(),
        SipServer(b"SIP/2.0 200 OK\r\n\r\n"),
        free_port(),
    )
    async with contextlib.AsyncExitStack() as stack:
        if udp:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: server, local_addr=("127.0.0.1", port)
            )
            stack.callback(transport.close)
        if tcp:
            await stack.enter_async_context(
                await asyncio.start_server(server.on_tcp, "127.0.0.1", port)
            )
        yield port, server


@pytest.mark.parametrize(
    ("udp", "tcp", "ok", "says"),
    [
        (True, True, True, "over UDP and TCP"),
        (False, True, True, "over TCP"),
        (True, False, True, "over UDP"),
        (False, False, False, "nobody listens"),
    ],
)
async def test_who_answers_sip(udp: bool, tcp: bool, ok: bool, says: str) -> None:
    """livekit-sip is asked by OPTIONS, over both transports; a refused connection means nobody is there."""
    async with sip_server(udp, tcp) as (port, server):
        found = await lines._answers_sip(Destination("127.0.0.1", port, "udp"))
        assert (found.ok, says in found.says) == (ok, True)
        for asked in server.asked:
            first, *headers = asked.decode().split("\r\n")
            assert first == f"OPTIONS sip:127.0.0.1:{port} SIP/2.0"
            assert {"CSeq: 1 OPTIONS", "Content-Length: 0"} <= set(headers)


async def test_silence_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that lets only the carrier in is silent to us, too: neither right nor wrong."""
    monkeypatch.setattr(lines, "SIP_PATIENCE_S", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(udp.getsockname())
        tcp.listen()
        found = await lines._answers_sip(Destination("127.0.0.1", udp.getsockname()[1], "udp"))
    assert (found.ok, "no answer" in found.says) == (None, True)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1", "no carrier can call it"),
        ("x" * 64, "is not found in the DNS"),  # longer than a label may be
        ("sip:example.com/", "is no SIP host"),
    ],
)
async def test_a_sip_host_that_no_carrier_reaches(tmp_path: Path, host: str, says: str) -> None:
    """A private address, a name that does not exist, something that is no name."""
    found = the(await lines.host(settings(tmp_path, trunkline_sip_host=host)), "TRUNKLINE_SIP_HOST")
    assert (found.ok, says in found.says, bool(found.fix)) == (False, True, True)


def test_the_ports_to_open_are_read_from_the_file(tmp_path: Path) -> None:
    """What sip/livekit-sip.yaml says, and TLS where it is set up."""
    sip = Path(__file__).resolve().parents[2] / "sip"
    (found,) = lines.firewall(sip)
    assert "5060/udp+tcp, 10000-20000/udp, for" in found.says
    (tmp_path / "livekit-sip.yaml").write_text("sip_port: 5080\nrtp_port: 1-2\ntls: {port: 5081}\n")
    (found,) = lines.firewall(tmp_path)
    assert "5080/udp+tcp, 1-2/udp, 5081/tcp" in found.says


# --- signing in -----------------------------------------------------------------------------------


async def test_the_identity_provider(tmp_path: Path, serve_identity: "ServeIdentity") -> None:
    """Its discovery, issuer and clock are looked at; without one there is nothing to say."""
    assert await people.sign_in(settings(tmp_path), utc_now) == []
    ours = {"trunkline_oidc_client_id": "trunkline", "trunkline_oidc_client_secret": "hush"}
    (half,) = await people.sign_in(settings(tmp_path, **ours), utc_now)
    assert (half.ok, half.says) == (
        False,
        "missing for signing in with OIDC: TRUNKLINE_OIDC_ISSUER",
    )
    async with serve_identity(utc_now) as provider:
        good = settings(tmp_path, trunkline_oidc_issuer=provider.issuer, **ours)
        (found,) = await people.sign_in(good, utc_now)
        assert found.ok
        assert "/login/oidc/callback" in found.says
        (skewed,) = await people.sign_in(good, lambda: utc_now() + timedelta(minutes=5))
        assert (skewed.ok, "differ by" in skewed.says) == (False, True)
        slashed = settings(tmp_path, trunkline_oidc_issuer=provider.issuer + "/", **ours)
        (other,) = await people.sign_in(slashed, utc_now)
        assert (other.ok, "calls itself" in other.says) == (False, True)
        assert other.fix
        assert "exactly" in other.fix
    (down,) = await people.sign_in(good, utc_now)
    assert (down.ok, "cannot be reached" in down.says) == (False, True)
