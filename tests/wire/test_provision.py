"""``trunkline provision``: Twilio and Telnyx as their public documentation describes them, over HTTP.

The stand-ins keep what is posted to them and answer in the documented shapes, so that running a
command twice meets what the first run left behind.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from trunkline.errors import (
    Conflict,
    Invalid,
    Misconfigured,
    NotFound,
    TrunklineError,
    Unauthorized,
    Unavailable,
)
from trunkline.trunks.commands import Told, provision_number
from trunkline.trunks.options import TrunkOptions
from trunkline.trunks.provision import Provider, Transport

NUMBER = "+12025550101"
README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
ACCOUNT = "AC" + "a" * 32
OPTIONS = TrunkOptions(
    sip_host="sip.example.com",
    environment={
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": "twilio-token",
        "TELNYX_API_KEY": "telnyx-key",
    },
)


class Streamed(httpx.AsyncByteStream):
    """A body as it comes over a network, not yet read."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


def answering(handle: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    """A client whose every request is answered by *handle*."""

    def stream(request: httpx.Request) -> httpx.Response:
        made = handle(request)
        return httpx.Response(made.status_code, stream=Streamed(made.content))

    return httpx.AsyncClient(transport=httpx.MockTransport(stream))


class Carrier:
    """What both have in common: a log of writes, and a way to fail at one of them."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str, dict[str, Any]]] = []
        self.fail_at: int | None = None
        self.failure = httpx.Response(500, json={})
        self.made = 0

    def client(self) -> httpx.AsyncClient:
        return answering(self._handle)

    def answer(self, method: str, url: httpx.URL, body: dict[str, Any]) -> httpx.Response:
        raise NotImplementedError

    def read(self, request: httpx.Request) -> dict[str, Any]:
        raise NotImplementedError

    def _handle(self, request: httpx.Request) -> httpx.Response:
        body = self.read(request) if request.content else {}
        if request.method != "GET":
            if self.fail_at == len(self.writes):
                self.fail_at = None
                return self.failure
            self.writes.append((request.method, request.url.path, body))
        return self.answer(request.method, request.url, body)

    def id(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made:032x}"


class Twilio(Carrier):
    """Elastic SIP Trunking v1 and IncomingPhoneNumbers (2010-04-01)."""

    def __init__(self, number: str = NUMBER) -> None:
        super().__init__()
        self.trunks: list[dict[str, Any]] = []
        self.urls: list[dict[str, Any]] = []
        self.numbers = [
            {"sid": "PN" + "1" * 32, "phone_number": number, "trunk_sid": None, "voice_url": ""}
        ]

    def read(self, request: httpx.Request) -> dict[str, Any]:
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        return dict(parse_qsl(request.content.decode()))

    def answer(self, method: str, url: httpx.URL, body: dict[str, Any]) -> httpx.Response:
        if url.host == "api.twilio.com":
            assert url.path == f"/2010-04-01/Accounts/{ACCOUNT}/IncomingPhoneNumbers.json"
            found = [n for n in self.numbers if n["phone_number"] == url.params["PhoneNumber"]]
            return httpx.Response(200, json={"incoming_phone_numbers": found, "page": 0})
        assert url.host == "trunking.twilio.com"
        match [method, *url.path.removeprefix("/v1/Trunks").strip("/").split("/")]:
            case ["GET", ""]:
                return httpx.Response(200, json={"meta": {"key": "trunks"}, "trunks": self.trunks})
            case ["POST", ""]:
                self.trunks.append({"sid": self.id("TK"), "account_sid": ACCOUNT, **_trunk(body)})
                return httpx.Response(201, json=self.trunks[-1])
            case ["POST", sid]:
                trunk = next(trunk for trunk in self.trunks if trunk["sid"] == sid)
                trunk |= _trunk({"FriendlyName": trunk["friendly_name"], **body})
                return httpx.Response(200, json=trunk)
            case ["GET", _, "OriginationUrls"]:
                return httpx.Response(200, json={"meta": {}, "origination_urls": self.urls})
            case ["POST", sid, "OriginationUrls"]:
                self.urls.append(
                    {
                        "sid": self.id("OU"),
                        "trunk_sid": sid,
                        "friendly_name": body["FriendlyName"],
                        "sip_url": body["SipUrl"],
                        "enabled": body["Enabled"] == "true",
                        "priority": int(body["Priority"]),
                        "weight": int(body["Weight"]),
                    }
                )
                return httpx.Response(201, json=self.urls[-1])
            case ["POST", sid, "PhoneNumbers"]:
                number = next(n for n in self.numbers if n["sid"] == body["PhoneNumberSid"])
                number["trunk_sid"] = sid
                return httpx.Response(201, json=number)
        return httpx.Response(404, json={"code": 20404, "message": f"{url.path} was not found"})


def _trunk(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "friendly_name": body["FriendlyName"],
        "transfer_mode": body.get("TransferMode", "disable-all"),
        "secure": body.get("Secure") == "true",
    }


class Telnyx(Carrier):
    """API v2: phone numbers, FQDN connections, FQDNs."""

    def __init__(self, number: str = NUMBER) -> None:
        super().__init__()
        self.connections: list[dict[str, Any]] = []
        self.fqdns: list[dict[str, Any]] = []
        self.numbers = [
            {
                "id": "1293384261075731499",
                "phone_number": number,
                "connection_id": "",
                "status": "active",
            }
        ]

    def read(self, request: httpx.Request) -> dict[str, Any]:
        assert request.headers["content-type"] == "application/json"
        body = json.loads(request.content)
        assert isinstance(body, dict)
        return body

    def answer(self, method: str, url: httpx.URL, body: dict[str, Any]) -> httpx.Response:
        assert url.host == "api.telnyx.com"
        match [method, *url.path.removeprefix("/v2/").split("/")]:
            case ["GET", "phone_numbers"]:
                wanted = url.params["filter[phone_number]"]
                # "Non-numerical characters will result in no values being returned."
                found = [
                    n for n in self.numbers if wanted.isdigit() and wanted in n["phone_number"]
                ]
                return httpx.Response(200, json={"data": found, "meta": {"total_results": 1}})
            case ["PATCH", "phone_numbers", id]:
                number = next(number for number in self.numbers if number["id"] == id)
                number |= body
                return httpx.Response(200, json={"data": number})
            case ["GET", "fqdn_connections"]:
                name = url.params["filter[connection_name][contains]"]
                found = [c for c in self.connections if name in c["connection_name"]]
                return httpx.Response(200, json={"data": found, "meta": {}})
            case ["POST", "fqdn_connections"]:
                self.connections.append(
                    {"id": self.id("c"), "record_type": "fqdn_connection", **body}
                )
                return httpx.Response(201, json={"data": self.connections[-1]})
            case ["PATCH", "fqdn_connections", id]:
                connection = next(c for c in self.connections if c["id"] == id)
                connection |= {**body, "inbound": {**connection["inbound"], **body["inbound"]}}
                return httpx.Response(200, json={"data": connection})
            case ["GET", "fqdns"]:
                owner = url.params["filter[connection_id]"]
                found = [f for f in self.fqdns if f["connection_id"] == owner]
                return httpx.Response(200, json={"data": found, "meta": {}})
            case ["POST", "fqdns"]:
                self.fqdns.append({"id": self.id("f"), "record_type": "fqdn", **body})
                return httpx.Response(201, json={"data": self.fqdns[-1]})
        return httpx.Response(
            404, json={"errors": [{"code": "10005", "title": "Resource not found"}]}
        )


CARRIERS: dict[Provider, Callable[[], Carrier]] = {"twilio": Twilio, "telnyx": Telnyx}
BOTH = pytest.mark.parametrize("provider", CARRIERS)


async def run(
    provider: Provider,
    carrier: Carrier,
    *,
    dry_run: bool = False,
    transport: Transport = "tcp",
    options: TrunkOptions = OPTIONS,
) -> Told:
    async with carrier.client() as client:
        return await provision_number(
            options, provider, NUMBER, transport=transport, dry_run=dry_run, client=client
        )


async def test_twilio_from_nothing() -> None:
    """A trunk that allows transfers, origination to our livekit-sip, and the number on it, in this order."""
    twilio = Twilio()
    told = await run("twilio", twilio)
    sid = twilio.trunks[0]["sid"]
    assert twilio.writes == [
        (
            "POST",
            "/v1/Trunks",
            {"FriendlyName": "trunkline", "TransferMode": "enable-all", "Secure": "false"},
        ),
        (
            "POST",
            f"/v1/Trunks/{sid}/OriginationUrls",
            {
                "FriendlyName": "trunkline",
                "SipUrl": "sip:sip.example.com;transport=tcp",
                "Priority": "10",
                "Weight": "10",
                "Enabled": "true",
            },
        ),
        ("POST", f"/v1/Trunks/{sid}/PhoneNumbers", {"PhoneNumberSid": "PN" + "1" * 32}),
    ]
    assert told.data["done"] == [
        "create the trunk 'trunkline'",
        "send its calls to sip:sip.example.com;transport=tcp",
        f"put {NUMBER} on the trunk",
    ]


async def test_telnyx_from_nothing() -> None:
    """A connection that writes both numbers with +, our livekit-sip's host on it, and the number."""
    telnyx = Telnyx()
    await run("telnyx", telnyx)
    id = telnyx.connections[0]["id"]
    assert telnyx.writes == [
        (
            "POST",
            "/v2/fqdn_connections",
            {
                "connection_name": "trunkline",
                "active": True,
                "transport_protocol": "TCP",
                "inbound": {"ani_number_format": "+E.164", "dnis_number_format": "+e164"},
            },
        ),
        (
            "POST",
            "/v2/fqdns",
            {"connection_id": id, "fqdn": "sip.example.com", "port": 5060, "dns_record_type": "a"},
        ),
        ("PATCH", "/v2/phone_numbers/1293384261075731499", {"connection_id": id}),
    ]


@BOTH
async def test_run_twice(provider: Provider) -> None:
    """The second run finds everything and writes nothing."""
    carrier = CARRIERS[provider]()
    await run(provider, carrier)
    before = len(carrier.writes)
    told = await run(provider, carrier)
    assert len(carrier.writes) == before
    assert told.data["done"] == []
    assert f"{provider} needs nothing." in told.lines


@BOTH
async def test_dry_run(provider: Provider) -> None:
    """It says what the real run then does, and writes nothing."""
    carrier = CARRIERS[provider]()
    told = await run(provider, carrier, dry_run=True)
    assert carrier.writes == []
    assert "Nothing was changed (--dry-run)." in told.lines
    assert told.data["done"] == (await run(provider, carrier)).data["done"]


@BOTH
@pytest.mark.parametrize("fail_at", [0, 1, 2])
async def test_cut_short_at_any_write(provider: Provider, fail_at: int) -> None:
    """The next run does what is left and makes nothing twice."""
    carrier = CARRIERS[provider]()
    carrier.fail_at = fail_at
    with pytest.raises(Unavailable):
        await run(provider, carrier)
    assert len((await run(provider, carrier)).data["done"]) == 3 - fail_at
    assert len(carrier.writes) == 3


async def test_twilio_settings_that_were_changed() -> None:
    """Transfers switched off by hand come back on; another origination is told and left."""
    twilio = Twilio()
    await run("twilio", twilio)
    twilio.trunks[0]["transfer_mode"] = "disable-all"
    twilio.urls.append({**twilio.urls[0], "sip_url": "sip:other.example.com"})
    told = await run("twilio", twilio)
    assert told.data["done"] == ["set the trunk to allow transfers and use no encryption"]
    assert twilio.trunks[0]["transfer_mode"] == "enable-all"
    assert any("also go to sip:other.example.com" in line for line in told.data["found"])
    assert len(twilio.urls) == 2


async def test_telnyx_settings_that_were_changed() -> None:
    """The + matters most: LiveKit's rules would match no call without it."""
    telnyx = Telnyx()
    await run("telnyx", telnyx)
    telnyx.connections[0]["inbound"]["dnis_number_format"] = "e164"
    told = await run("telnyx", telnyx)
    assert told.data["done"] == ["set the connection to TCP and numbers with +"]
    assert telnyx.connections[0]["inbound"]["dnis_number_format"] == "+e164"


async def test_over_tls() -> None:
    """Twilio then encrypts voice as well (Secure Trunking), Telnyx sends to the TLS port."""
    twilio, telnyx = Twilio(), Telnyx()
    await run("twilio", twilio, transport="tls")
    await run("telnyx", telnyx, transport="tls")
    assert (twilio.trunks[0]["secure"], twilio.urls[0]["sip_url"]) == (
        True,
        "sip:sip.example.com;transport=tls",
    )
    assert (telnyx.connections[0]["transport_protocol"], telnyx.fqdns[0]["port"]) == ("TLS", 5061)


@BOTH
async def test_a_number_that_is_in_use_elsewhere_is_left_there(provider: Provider) -> None:
    """It may be somebody's telephone: whoever wants it here takes it off there."""
    carrier = CARRIERS[provider]()
    held = {"trunk_sid": "TKother", "connection_id": "other"}
    carrier.numbers[0].update(held)  # type: ignore[attr-defined]
    with pytest.raises(Conflict, match="take it off there first"):
        await run(provider, carrier)
    assert carrier.writes == []


@BOTH
async def test_a_number_that_the_account_does_not_have(provider: Provider) -> None:
    """Nothing is made for it. A number that only ends the same is another one."""
    carrier = Twilio(f"+4{NUMBER[1:]}") if provider == "twilio" else Telnyx(f"+4{NUMBER[1:]}")
    with pytest.raises(
        NotFound, match=r"has no number \+1202•••0101; buy it or port it there first"
    ):
        await run(provider, carrier)
    assert carrier.writes == []


@BOTH
async def test_the_keys_go_with_every_request(provider: Provider) -> None:
    """Basic with SID and token for Twilio, a bearer for Telnyx; a refusal names the variables."""
    seen = set()

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.add(request.headers["authorization"])
        return httpx.Response(401, json={"code": 20003, "message": "Authenticate"})

    async with answering(refuse) as client:
        with pytest.raises(
            Unauthorized, match=r"does not accept (TWILIO_ACCOUNT_SID|TELNYX_API_KEY)"
        ):
            await provision_number(
                OPTIONS, provider, NUMBER, transport="tcp", dry_run=False, client=client
            )
    basic = base64.b64encode(f"{ACCOUNT}:twilio-token".encode()).decode()
    assert seen == {f"Basic {basic}" if provider == "twilio" else "Bearer telnyx-key"}


@pytest.mark.parametrize(
    ("response", "says"),
    [
        # Twilio's error shape
        (
            httpx.Response(
                400, json={"code": 21404, "message": f"{NUMBER} is not allowed", "status": 400}
            ),
            "Twilio said 400: +1202•••0101 is not allowed",
        ),
        # Telnyx's
        (
            httpx.Response(422, json={"errors": [{"title": "Bad", "detail": "port is taken"}]}),
            "Twilio said 422: port is taken",
        ),
        (httpx.Response(503, text="<html>"), "Twilio said 503: nothing that says why"),
        (httpx.Response(200, text="[]"), "Twilio said 200: nothing that says why"),
    ],
)
async def test_an_error_is_one_sentence_in_the_providers_words(
    response: httpx.Response, says: str
) -> None:
    """With numbers masked, and nothing of ours but the status."""
    twilio = Twilio()
    twilio.fail_at, twilio.failure = 0, response
    with pytest.raises(Unavailable) as raised:
        await run("twilio", twilio)
    assert str(raised.value) == says


async def test_a_provider_that_cannot_be_reached() -> None:
    """Unavailable, with the reason."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("", request=request) from ConnectionRefusedError()

    async with answering(refuse) as client:
        with pytest.raises(Unavailable, match="Telnyx did not answer: the connection was refused"):
            await provision_number(
                OPTIONS, "telnyx", NUMBER, transport="tcp", dry_run=True, client=client
            )


@pytest.mark.parametrize(
    ("provider", "number", "options", "error", "says"),
    [
        (
            "twilio",
            NUMBER,
            TrunkOptions(sip_host="sip.example.com"),
            Invalid,
            "missing: TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN; set them in the environment or in .env",
        ),
        ("twilio", NUMBER, TrunkOptions(), Misconfigured, "TRUNKLINE_SIP_HOST is not set"),
        ("twilio", NUMBER, TrunkOptions(sip_host="sip:x@y"), Invalid, "is no SIP host"),
        ("twilio", "555-0101", OPTIONS, Invalid, "no country code"),
        (
            "telnyx",
            NUMBER,
            TrunkOptions(sip_host="192.0.2.7", environment=OPTIONS.environment),
            Invalid,
            "Telnyx sends calls to a host name, and 192.0.2.7 is an address",
        ),
    ],
)
async def test_what_is_wrong_before_anything_is_asked(
    provider: Provider,
    number: str,
    options: TrunkOptions,
    error: type[TrunklineError],
    says: str,
) -> None:
    """Missing keys, host or country code are told without a request."""

    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was asked for")

    async with answering(never) as client:
        with pytest.raises(error, match=says):
            await provision_number(
                options, provider, number, transport="tcp", dry_run=False, client=client
            )


@BOTH
async def test_the_readme_shows_what_a_dry_run_prints(provider: Provider) -> None:
    """Step 4 of "A real number in ten minutes", line by line, but for the number and ids."""
    told = await run(provider, CARRIERS[provider](), dry_run=True)
    printed = [line.replace(NUMBER, "+12025550100") for line in told.lines]
    step = README.split(f"provision {provider} --number +12025550100 --dry-run")[1]
    shown = step.split("```text\n")[1].split("```")[0].splitlines()
    assert len(shown) == 5
    for line, real in zip(shown, printed, strict=False):
        assert re.fullmatch(".*".join(map(re.escape, line.split("…"))), real)
