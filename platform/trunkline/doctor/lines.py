"""The telephone lines: trunks and rules as the files want them, numbers on them, the way to livekit-sip."""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Awaitable
from ipaddress import ip_address
from pathlib import Path

import yaml

from trunkline.doctor.report import Finding, Findings
from trunkline.errors import TrunklineError
from trunkline.kit.db import Database
from trunkline.kit.http import refusal
from trunkline.kit.livekit import LiveKit, LiveKitFailed
from trunkline.profiles import queries as profiles
from trunkline.settings import Settings
from trunkline.trunks import commands
from trunkline.trunks.provision import Destination
from trunkline.trunks.route import follow

HOST = "TRUNKLINE_SIP_HOST"
SIP_PATIENCE_S = 3.0
RESOLVE_PATIENCE_S = 4.0
MOST_NUMBERS = 50
"""Numbers that are followed one by one; a house with more has a line of its own for the rest."""


async def in_step(settings: Settings, db: Database) -> Findings:
    """Whether LiveKit holds what files and numbers say."""
    what = "trunks and rules"
    try:
        told = await commands.sip_plan(settings.trunks(), db)
    except TrunklineError as error:
        return [Finding.wrong("lines", what, error)]
    if told.data["conflicts"]:
        return [
            Finding("lines", what, False, conflict, "trunkline sip plan shows all of it")
            for conflict in told.data["conflicts"]
        ]
    if steps := len(told.data["steps"]):
        says = f"LiveKit's differ from {settings.trunkline_sip}/ and our numbers in {steps} steps"
        fix = "trunkline sip plan shows them, trunkline sip apply does them"
        return [Finding("lines", what, False, says, fix)]
    says = f"LiveKit holds what {settings.trunkline_sip}/ and our numbers say"
    return [Finding("lines", what, True, says)]


async def numbers(db: Database, livekit: LiveKit) -> Findings:
    """Whether a call to each of our numbers would find a trunk, a rule and an agent."""
    try:
        stored = await livekit.stored()
    except LiveKitFailed as error:
        return [Finding.wrong("lines", "numbers", error)]
    async with db.look() as session:
        ours = [number.e164 for number in await profiles.numbers(session)]
    if not ours:
        return [
            Finding(
                "lines",
                "numbers",
                False,
                "no number leads to a profile",
                "trunkline number set +1… --profile NAME, then trunkline sip apply",
            )
        ]
    found = []
    for number in ours[:MOST_NUMBERS]:
        faults = [one for one in follow(number, None, stored).findings if one.ok is False]
        if faults:
            fix = f"trunkline sip apply; trunkline route {number} says more"
            says = f"a call would ring for ever: {faults[0].says}"
            found.append(Finding("lines", number, False, says, fix))
    if found:
        return found
    more = (
        f" (the first {MOST_NUMBERS} of {len(ours)} looked at)" if len(ours) > MOST_NUMBERS else ""
    )
    count = "1 number has" if len(ours) == 1 else f"{len(ours)} numbers have"
    return [Finding("lines", "numbers", True, f"{count} a trunk, a rule and an agent{more}")]


async def host(settings: Settings) -> Findings:
    """Whether the name that carriers are given leads to a public address, and who answers there."""
    what = HOST
    if not settings.trunkline_sip_host:
        return [Finding("lines", what, None, "not set", "the public name of livekit-sip")]
    try:
        to = Destination.parse(settings.trunkline_sip_host, "udp")
    except TrunklineError as error:
        return [Finding.wrong("lines", what, error)]
    try:
        async with asyncio.timeout(RESOLVE_PATIENCE_S):
            got = await asyncio.get_running_loop().getaddrinfo(
                to.host, to.port, type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError, UnicodeError):
        fix = "make an A record for it at whoever runs your domain, or use the address itself"
        return [Finding("lines", what, False, f"{to.host} is not found in the DNS", fix)]
    addresses = sorted({str(one[4][0]) for one in got})
    inside = [(one, why) for one in addresses if (why := refusal(ip_address(one.split("%")[0])))]
    if inside:
        found = Finding(
            "lines",
            what,
            False,
            f"{to.host} leads to {inside[0][0]}, {inside[0][1]}: no carrier can call it",
            "let it lead to the machine's public address",
        )
    else:
        found = Finding("lines", what, True, f"{to.host} leads to {', '.join(addresses)}")
    return [found, await _answers_sip(to)]


async def _answers_sip(to: Destination) -> Finding:
    what = "livekit-sip"
    udp, tcp = await asyncio.gather(
        *(_outcome(ask(to.host, to.port)) for ask in (_ask_udp, _ask_tcp))
    )
    where = f"{to.host}:{to.port}"
    if udp is True or tcp is True:
        ways = " and ".join(name for name, got in (("UDP", udp), ("TCP", tcp)) if got is True)
        return Finding("lines", what, True, f"{where} answers SIP over {ways}")
    if udp is False or tcp is False:
        fix = "start livekit-sip (infra/compose.yaml), with sip_port as in sip/livekit-sip.yaml"
        return Finding("lines", what, False, f"nobody listens at {where}", fix)
    fix = "a firewall that lets only carriers in does this too; ask from outside to be sure"
    return Finding("lines", what, None, f"no answer from {where} to this machine", fix)


async def _outcome(asking: Awaitable[bool]) -> bool | None:
    """True: SIP was answered; False: refused; None: silence."""
    try:
        async with asyncio.timeout(SIP_PATIENCE_S):
            return await asking
    except ConnectionRefusedError:
        return False
    except (OSError, TimeoutError):
        return None


def _options(host_: str, port: int, transport: str, local: tuple[str, int]) -> bytes:
    """An OPTIONS request, which any SIP server answers and which rings nowhere (RFC 3261 §11)."""
    id_ = uuid.uuid4().hex
    me = f"[{local[0]}]" if ":" in local[0] else local[0]
    lines = (
        f"OPTIONS sip:{host_}:{port} SIP/2.0",
        f"Via: SIP/2.0/{transport} {me}:{local[1]};branch=z9hG4bK{id_};rport",
        "Max-Forwards: 70",
        f"From: <sip:doctor@{me}>;tag={id_[:10]}",
        f"To: <sip:{host_}:{port}>",
        f"Call-ID: {id_}@{me}",
        "CSeq: 1 OPTIONS",
        f"Contact: <sip:doctor@{me}:{local[1]}>",
        "Accept: application/sdp",
        "Content-Length: 0",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _ask_tcp(host_: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host_, port)
    try:
        local = writer.get_extra_info("sockname")[:2]
        writer.write(_options(host_, port, "TCP", local))
        await writer.drain()
        return (await reader.readline()).startswith(b"SIP/2.0 ")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Answer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.got.done():
            self.got.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.got.done():
            self.got.set_exception(exc)


async def _ask_udp(host_: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_datagram_endpoint(_Answer, remote_addr=(host_, port))
    try:
        transport.sendto(_options(host_, port, "UDP", transport.get_extra_info("sockname")[:2]))
        return (await answer.got).startswith(b"SIP/2.0 ")
    finally:
        transport.close()


def firewall(folder: Path) -> Findings:
    """Which ports must be open; nobody can see from inside whether they are."""
    file = folder / "livekit-sip.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        ports = [f"{config['sip_port']}/udp+tcp", f"{config['rtp_port']}/udp"]
        if tls := config.get("tls"):
            ports.append(f"{tls.get('port', 5061)}/tcp")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        says = f"{file} does not say sip_port and rtp_port"
        return [Finding("lines", "ports to open", None, says, "sip/livekit-sip.yaml is a start")]
    says = f"{', '.join(ports)}, for the carrier's networks; from inside nobody can see it"
    return [Finding("lines", "ports to open", None, says)]
