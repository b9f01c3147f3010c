"""Nothing is sent to an address that is not public: counted at the socket, whatever the name said."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.errors import Invalid, Misconfigured
from trunkline.kit.http import Allowed, Client, HttpFailed, Reply, problem_with, refusal
from trunkline.sandbox.receiver import Receiver
from trunkline.webhooks import checks

SECOND = timedelta(seconds=1)
SOON = timedelta(seconds=10)

HOSTILE = [
    # written as an address
    ("127.0.0.1", "loopback"),
    ("127.8.8.8", "loopback is a /8"),
    ("0.0.0.0", "unspecified reaches loopback on Linux"),  # noqa: S104
    ("0.1.2.3", "this network"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private, last"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private, last"),
    ("192.168.0.1", "private"),
    ("192.168.255.255", "private, last"),
    ("169.254.169.254", "metadata of AWS, GCP, Azure"),
    ("169.254.170.2", "credentials of ECS tasks"),
    ("169.254.0.1", "link-local"),
    ("100.64.0.1", "CGNAT, not private for the standard library"),
    ("100.100.100.200", "metadata of Alibaba"),
    ("100.127.255.255", "CGNAT, last"),
    ("168.63.129.16", "Azure's host"),
    ("192.0.0.192", "metadata of Oracle"),
    ("192.0.2.1", "documentation"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("198.18.0.1", "benchmarks"),
    ("198.19.255.255", "benchmarks, last"),
    ("192.88.99.1", "6to4 relay"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("[::]", "unspecified"),
    ("[::1]", "loopback"),
    ("[::ffff:127.0.0.1]", "v4-mapped loopback"),
    ("[::ffff:10.0.0.1]", "v4-mapped private"),
    ("[::ffff:8.8.8.8]", "v4-mapped, even a public one"),
    ("[::ffff:a9fe:a9fe]", "v4-mapped metadata in hex"),
    ("[::127.0.0.1]", "v4-compatible"),
    ("[64:ff9b::7f00:1]", "NAT64 loopback, global for the standard library"),
    ("[64:ff9b::a9fe:a9fe]", "NAT64 metadata"),
    ("[64:ff9b:1::1]", "local NAT64"),
    ("[2002:7f00:1::]", "6to4 loopback, global for the standard library"),
    ("[2002:c0a8:1::1]", "6to4 private"),
    ("[2001:0:7f00:1::]", "Teredo"),
    ("[2001:10::1]", "ORCHID"),
    ("[2001:db8::1]", "documentation"),
    ("[3fff::1]", "documentation"),
    ("[fc00::1]", "unique local"),
    ("[fd00:ec2::254]", "metadata of AWS over IPv6"),
    ("[fdff::1]", "unique local"),
    ("[fe80::1]", "link-local"),
    ("[febf::1]", "link-local, last"),
    ("[fec0::1]", "site-local"),
    ("[ff02::1]", "multicast"),
    ("[ff0e::1]", "multicast"),
    ("[5f00::1]", "SRv6"),
    ("[100::1]", "discard"),
    ("[4000::1]", "never given out"),
    ("[e000::1]", "never given out"),
    # written so that it does not look like one
    ("2130706433", "loopback as a number"),
    ("0x7f000001", "loopback in hex"),
    ("0x7f.1", "loopback, half in hex"),
    ("017700000001", "loopback in octal"),
    ("0177.0.0.1", "loopback, half in octal"),
    ("127.1", "loopback, short"),
    ("127.0.0.1.", "loopback with the root's dot"),
    ("①②⑦.⓪.⓪.①", "loopback in circled digits"),
    ("127。0。0。1", "loopback with ideographic dots"),
    # names
    ("localhost", "loopback by the hosts file"),
    ("localhost.", "loopback with the root's dot"),
    ("LOCALHOST", "loopback, shouted"),
]
"""Host as it stands in the address line, and why it is here."""


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that any socket of this process is told to connect to."""
    seen: list[Any] = []
    blocking = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        seen.append(address)
        blocking(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return seen


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Let names lead to *answers*, one each time and then the last; return the names asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo
    left = list(answers)

    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        with contextlib.suppress(ValueError):
            ip_address(host)
            return real(host, port, *args, **more)
        asked.append(host)
        now = left.pop(0) if len(left) > 1 else left[0]
        return [info for each in now for info in real(each, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@contextlib.asynccontextmanager
async def client(*allow: str, **more: Any) -> AsyncIterator[Client]:
    async with Client(
        connect=SOON, max_connections=4, allowed=Allowed.parse(allow), **more
    ) as opened:
        yield opened


async def post(opened: Client, url: str, *, total: timedelta = SOON) -> Reply:
    return await opened.exchange(
        "POST", url, headers={}, content=b"{}", total=total, max_body_bytes=4_096
    )


def test_the_list_of_hostile_hosts_is_long() -> None:
    """At least sixty, none of them twice."""
    assert len({host for host, _ in HOSTILE}) == len(HOSTILE) >= 60


async def test_no_hostile_host_is_connected_to(dialled: list[Any]) -> None:
    """Each of them, with and without TLS, on the usual ports and on odd ones: not one connection."""
    words = []
    async with client() as opened:
        for host, _ in HOSTILE:
            for url in (f"https://{host}/", f"http://{host}/", f"https://{host}:6379/"):
                with pytest.raises(HttpFailed) as failed:
                    await post(opened, url)
                words.append(str(failed.value))
    # Names are asked for by the resolver of the C library, so what is seen here are connections.
    assert dialled == []
    assert len(words) == 3 * len(HOSTILE)
    assert {word for word in words if "could not be made" in word} == set()


@pytest.mark.parametrize(("host", "why"), HOSTILE, ids=[host for host, _ in HOSTILE])
def test_no_hostile_host_becomes_an_endpoint_where_it_shows(host: str, why: str) -> None:
    """An address that is one is refused when the endpoint is made; a name only when it is connected to."""
    if host.lower().startswith("localhost"):
        checks.url(f"https://{host}/", allow=())  # its resolver may know another
        return
    with pytest.raises(Invalid):
        checks.url(f"https://{host}/", allow=())


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["10.0.0.5"],
        ["fd00::1"],
        ["93.184.215.14", "127.0.0.1"],  # one good among bad is not good
        ["169.254.169.254", "93.184.215.14"],
        ["2606:2800:21f:cb07::1", "::ffff:127.0.0.1"],
    ],
)
async def test_a_name_is_refused_when_any_of_its_answers_is(
    monkeypatch: pytest.MonkeyPatch, dialled: list[Any], answers: list[str]
) -> None:
    """Every answer is checked before the first connection."""
    asked = resolve(monkeypatch, answers)
    async with client() as opened:
        with pytest.raises(
            HttpFailed, match=r"leads to an address that is .*TRUNKLINE_WEBHOOK_ALLOW"
        ):
            await post(opened, "https://rebind.example/")
    assert (asked, dialled) == (["rebind.example"], [])


async def test_a_name_that_changes_its_mind_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, dialled: list[Any]
) -> None:
    """The address that was checked is the one connected to: the name is asked for once (rebinding)."""
    async with Receiver() as first, client("127.0.0.1") as opened:
        asked = resolve(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        reply = await post(opened, first.url.replace("127.0.0.1", "rebind.example"))
    assert (reply.status, asked) == (200, ["rebind.example"])
    assert [address[0] for address in dialled if isinstance(address, tuple)] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("allow", "host", "reached"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.1"], "inside.example", True),  # by the address it leads to
        (["inside.example"], "inside.example", True),  # by its name, wherever that leads
        (["INSIDE.example."], "inside.example", True),
        (["inside.example"], "127.0.0.1", False),  # the name is allowed, not all it leads to
        (["other.example"], "inside.example", False),
        (["10.0.0.0/8"], "127.0.0.1", False),
        (["::1"], "127.0.0.1", False),
    ],
)
async def test_what_is_allowed_is_reached(
    monkeypatch: pytest.MonkeyPatch, allow: list[str], host: str, reached: bool
) -> None:
    """A receiver in the LAN works without TLS and on its own port once it is allowed, and only then."""
    resolve(monkeypatch, ["127.0.0.1"])
    async with Receiver() as receiver, client(*allow) as opened:
        url = receiver.url.replace("127.0.0.1", host)
        if reached:
            assert (await post(opened, url)).status == 200
        else:
            with pytest.raises(HttpFailed):
                await post(opened, url)
        assert len(receiver.received) == int(reached)


async def test_a_public_address_without_tls_is_refused(
    monkeypatch: pytest.MonkeyPatch, dialled: list[Any]
) -> None:
    """http goes to allowed hosts only, or anyone on the way could read what was said."""
    resolve(monkeypatch, ["93.184.215.14"])
    async with client() as opened:
        with pytest.raises(HttpFailed, match="without https only allowed hosts"):
            await post(opened, "http://public.example/")
    assert dialled == []


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001::1"],
)
def test_public_addresses_are_not_refused(address: str) -> None:
    """The table holds back nothing that the world can reach."""
    assert refusal(ip_address(address)) is None


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://hooks.example/", None),
        ("https://hooks.example:443/", None),
        ("https://hooks.example:8443/", None),
        ("https://hooks.example:6379/", "the port must be 443 or 8443"),
        ("https://hooks.example:22/", "the port must be 443 or 8443"),
        ("http://hooks.example/", "must begin with https://, or be allowed"),
        ("https://10.0.0.1/", "the address is private"),
        ("https://1.2.3.4.5/", "is a number that hides an address"),
        ("http://n8n.lan:5678/webhook", None),  # allowed
        ("http://10.9.8.7:5678/webhook", None),  # allowed
    ],
)
def test_what_an_address_line_shows_is_told_at_once(url: str, sentence: str | None) -> None:
    """Whoever makes the endpoint learns what is wrong, and how to allow it."""
    wrong = problem_with(httpx.URL(url), Allowed.parse(["n8n.lan", "10.9.0.0/16"]))
    assert (wrong is None) if sentence is None else (sentence in (wrong or ""))


@pytest.mark.parametrize(
    "entry", ["http://n8n.lan", "n8n.lan:5678", "*.lan", "10.0.0.1/8", "", "1.2.3"]
)
def test_an_allow_list_that_means_nothing_is_refused(entry: str) -> None:
    """A slip in the allow list is told at the start, with the entry."""
    with pytest.raises(Misconfigured, match="TRUNKLINE_WEBHOOK_ALLOW"):
        checks.allowed([entry])


async def test_a_name_server_that_is_silent_costs_one_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait for a name counts as part of the attempt, and other names are not kept waiting."""
    import threading

    gate = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        if host == "silent.example":
            gate.wait(30)
        return real("127.0.0.1", *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with Receiver() as receiver, client("127.0.0.1") as opened:
            stuck = [
                asyncio.create_task(post(opened, "https://silent.example/", total=SOON))
                for _ in range(3)
            ]
            url = receiver.url.replace("127.0.0.1", "quick.example")
            assert (await post(opened, url)).status == 200
            assert not any(task.done() for task in stuck)
            with pytest.raises(HttpFailed, match=r"no answer came within 0\.05 s"):
                await post(opened, "https://silent.example/", total=SECOND / 20)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
    finally:
        gate.set()


# --- an outgoing proxy -------------------------------------------------------------------------


async def test_with_a_proxy_everything_goes_through_it(dialled: list[Any]) -> None:
    """Names are the proxy's to look up; what shows on the address line is refused before it is asked."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with proxy, client(proxy=f"http://127.0.0.1:{port}") as opened:
        with pytest.raises(HttpFailed, match="the outgoing proxy refused: 407"):
            await post(opened, "https://hooks.example/in")
        for url in ("https://169.254.169.254/", "http://hooks.example/", "https://[::1]/"):
            with pytest.raises(HttpFailed):
                await post(opened, url)
    assert [head.split(b"\r\n")[0] for head in heads] == [b"CONNECT hooks.example:443 HTTP/1.1"]
    assert {address[1] for address in dialled if isinstance(address, tuple)} == {port}


# --- certificates ------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Any]:
    """A certificate authority of the test's own: its file, and what issues a server's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    root_file = tmp_path / "root.pem"
    root_file.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def issue(host: str, *, until: datetime) -> ssl.SSLContext:
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(name)
            .public_key(own.public_key())
            .serial_number(2)
            .not_valid_before(begin)
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        chain = tmp_path / f"{host}.pem"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    return root_file, issue


@pytest.mark.parametrize(
    ("host", "until", "trusted", "sentence"),
    [
        ("good.example", datetime(2100, 1, 1, tzinfo=UTC), True, None),
        ("old.example", datetime(2021, 1, 1, tzinfo=UTC), True, "certificate has expired"),
        ("good.example", datetime(2100, 1, 1, tzinfo=UTC), False, "the certificate is not trusted"),
        ("wrong.example", datetime(2100, 1, 1, tzinfo=UTC), True, "mismatch"),
    ],
    ids=["good", "expired", "unknown authority", "another's"],
)
async def test_a_certificate_must_hold(
    monkeypatch: pytest.MonkeyPatch,
    authority: tuple[Path, Any],
    host: str,
    until: datetime,
    trusted: bool,
    sentence: str | None,
) -> None:
    """An expired, unknown or borrowed certificate ends the attempt with a word about it; a private
    authority can be trusted. The name is checked though the connection goes to an address."""
    root_file, issue = authority
    resolve(monkeypatch, ["127.0.0.1"])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        writer.close()

    named = "another.example" if host == "wrong.example" else host
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=issue(named, until=until))
    port = server.sockets[0].getsockname()[1]
    async with server, client(host, ca_file=root_file if trusted else None) as opened:
        if sentence is None:
            assert (await post(opened, f"https://{host}:{port}/")).status == 204
        else:
            with pytest.raises(HttpFailed, match=sentence):
                await post(opened, f"https://{host}:{port}/")
