"""The carrier's side of a number: a trunk there that sends its calls to our livekit-sip.

Each provider's steps look first and act only on what is missing or different, so that running it
again changes nothing and finishes what was cut short. Nothing of the account that we did not make
is changed, except the one number's binding; a number that is bound elsewhere is refused.

Shapes: Twilio's Elastic SIP Trunking API (https://www.twilio.com/docs/sip-trunking/api) and
IncomingPhoneNumbers; Telnyx's API v2, FQDN connections, FQDNs and phone numbers
(https://developers.telnyx.com/api-reference).
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx

from trunkline.errors import Conflict, Invalid, NotFound, Unauthorized, Unavailable
from trunkline.kit import phone
from trunkline.kit.http import in_words

Provider = Literal["twilio", "telnyx"]
Transport = Literal["udp", "tcp", "tls"]

NAME = "trunkline"
"""What our trunk is called there; found again by it."""

_STANDARD_PORT: dict[Transport, int] = {"udp": 5060, "tcp": 5060, "tls": 5061}


@dataclass(frozen=True)
class Destination:
    """Where the carrier sends calls: our livekit-sip."""

    host: str
    port: int
    transport: Transport

    @classmethod
    def parse(cls, text: str, transport: Transport) -> "Destination":
        """Read ``host`` or ``host:port``. Raises Invalid."""
        host, colon, port = text.strip().partition(":")
        if not host or any(c in host for c in "/@; ") or (colon and not port.isdigit()):
            raise Invalid(
                f"{text!r} is no SIP host; give the public name of livekit-sip, like sip.example.com"
            )
        return cls(host, int(port) if colon else _STANDARD_PORT[transport], transport)

    @property
    def uri(self) -> str:
        """As a SIP URI; the port is left out where it is the transport's own."""
        port = "" if self.port == _STANDARD_PORT[self.transport] else f":{self.port}"
        return f"sip:{self.host}{port};transport={self.transport}"


@dataclass
class Work:
    """What was found and what was, or in a dry run would be, done; one sentence each."""

    dry_run: bool
    found: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    async def do(self, what: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do it and note it; in a dry run only note it and return None."""
        result = None if self.dry_run else await act()
        self.done.append(what)
        return result


async def provision(
    provider: Provider,
    number: phone.PhoneNumber,
    destination: Destination,
    environment: Mapping[str, str],
    *,
    client: httpx.AsyncClient,
    patience: timedelta,
    dry_run: bool,
) -> Work:
    """Bring the provider to where *number* rings at *destination*.

    *patience* bounds each request. Raises Invalid (a key is missing from *environment*, or the
    destination won't do), Unauthorized, NotFound (the account has no such number), Conflict (it is in use
    elsewhere) or Unavailable.
    """
    work = Work(dry_run)
    if provider == "twilio":
        sid, token = _keys(environment, "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
        basic = base64.b64encode(f"{sid}:{token}".encode()).decode()
        twilio = _Api(
            client, patience, "Twilio", "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN", f"Basic {basic}"
        )
        await _twilio(twilio, sid, number, destination, work)
    else:
        (key,) = _keys(environment, "TELNYX_API_KEY")
        telnyx = _Api(client, patience, "Telnyx", "TELNYX_API_KEY", f"Bearer {key}")
        await _telnyx(telnyx, number, destination, work)
    return work


# --- Twilio ---------------------------------------------------------------------------------------

_TRUNKING = "https://trunking.twilio.com/v1"
_TWILIO = "https://api.twilio.com/2010-04-01"


async def _twilio(
    twilio: "_Api", account: str, number: phone.PhoneNumber, to: Destination, work: Work
) -> None:
    # The number first: without it nothing else is worth making.
    query = urlencode({"PhoneNumber": number.e164})
    listed = await twilio.get(f"{_TWILIO}/Accounts/{account}/IncomingPhoneNumbers.json?{query}")
    bought = [n for n in listed["incoming_phone_numbers"] if n["phone_number"] == number.e164]
    if not bought:
        raise NotFound(f"the Twilio account has no number {number}; buy it or port it there first")
    work.found.append(f"number {number.e164} ({bought[0]['sid']})")
    trunks = (await twilio.get(f"{_TRUNKING}/Trunks?PageSize=1000"))["trunks"]
    trunk = next((t for t in trunks if t["friendly_name"] == NAME), None)
    held_by = bought[0].get("trunk_sid")
    if held_by and held_by != (trunk or {}).get("sid"):
        raise Conflict(
            f"{number} is on another trunk of the Twilio account ({held_by}); take it off there first"
        )
    # REFER to a telephone number needs enable-all; calls are encrypted on TLS only.
    settings = {"TransferMode": "enable-all", "Secure": str(to.transport == "tls").lower()}
    if trunk is None:
        trunk = await work.do(
            f"create the trunk {NAME!r}",
            lambda: twilio.post(f"{_TRUNKING}/Trunks", {"FriendlyName": NAME, **settings}),
        )
    else:
        work.found.append(f"trunk {NAME!r} ({trunk['sid']})")
        sid = trunk["sid"]
        if trunk["transfer_mode"] != "enable-all" or trunk["secure"] != (to.transport == "tls"):
            secure = "encryption" if to.transport == "tls" else "no encryption"
            await work.do(
                f"set the trunk to allow transfers and use {secure}",
                lambda: twilio.post(f"{_TRUNKING}/Trunks/{sid}", settings),
            )
    base = f"{_TRUNKING}/Trunks/{trunk['sid']}" if trunk else ""
    urls = (await twilio.get(f"{base}/OriginationUrls"))["origination_urls"] if trunk else []
    if any(url["sip_url"] == to.uri and url["enabled"] for url in urls):
        work.found.append(f"calls go to {to.uri}")
    else:
        fields = {"FriendlyName": NAME, "SipUrl": to.uri, "Priority": "10", "Weight": "10"}
        await work.do(
            f"send its calls to {to.uri}",
            lambda: twilio.post(f"{base}/OriginationUrls", {**fields, "Enabled": "true"}),
        )
    work.found += [
        f"calls also go to {url['sip_url']}; remove that there if it is not yours"
        for url in urls
        if url["sip_url"] != to.uri and url["enabled"]
    ]
    if held_by:
        work.found.append("the number is on the trunk")
    else:
        await work.do(
            f"put {number.e164} on the trunk",
            lambda: twilio.post(f"{base}/PhoneNumbers", {"PhoneNumberSid": bought[0]["sid"]}),
        )


# --- Telnyx ---------------------------------------------------------------------------------------

_TELNYX = "https://api.telnyx.com/v2"


async def _telnyx(telnyx: "_Api", number: phone.PhoneNumber, to: Destination, work: Work) -> None:
    if _is_address(to.host):
        raise Invalid(
            f"Telnyx sends calls to a host name, and {to.host} is an address; give a name"
        )
    # "Non-numerical characters will result in no values being returned": without the plus.
    query = urlencode({"filter[phone_number]": number.e164[1:]})
    listed = await telnyx.get(f"{_TELNYX}/phone_numbers?{query}")
    bought = [n for n in listed["data"] if n["phone_number"] == number.e164]
    if not bought:
        raise NotFound(f"the Telnyx account has no number {number}; buy it or port it there first")
    work.found.append(f"number {number.e164} ({bought[0]['id']})")
    query = urlencode({"filter[connection_name][contains]": NAME, "page[size]": 250})
    listed = await telnyx.get(f"{_TELNYX}/fqdn_connections?{query}")
    connection = next((c for c in listed["data"] if c["connection_name"] == NAME), None)
    held_by = bought[0].get("connection_id")
    if held_by and held_by != (connection or {}).get("id"):
        raise Conflict(
            f"{number} is on another connection of the Telnyx account ({held_by}); take it off there first"
        )
    settings = {
        "active": True,
        "transport_protocol": to.transport.upper(),
        # LiveKit's rules compare the dialled number letter by letter, + included.
        "inbound": {"ani_number_format": "+E.164", "dnis_number_format": "+e164"},
    }
    if connection is None:
        made = await work.do(
            f"create the connection {NAME!r}",
            lambda: telnyx.post_json(
                f"{_TELNYX}/fqdn_connections", {"connection_name": NAME, **settings}
            ),
        )
        connection = made["data"] if made else None
    else:
        work.found.append(f"connection {NAME!r} ({connection['id']})")
        known = connection["id"]
        if not _has(connection, settings):
            await work.do(
                f"set the connection to {to.transport.upper()} and numbers with +",
                lambda: telnyx.patch_json(f"{_TELNYX}/fqdn_connections/{known}", settings),
            )
    hosts: list[Any] = []
    connection_id = connection["id"] if connection else ""
    if connection_id:
        query = urlencode({"filter[connection_id]": connection_id})
        hosts = (await telnyx.get(f"{_TELNYX}/fqdns?{query}"))["data"]
    if any(_is_host(h, to) for h in hosts):
        work.found.append(f"calls go to {to.host}:{to.port}")
    else:
        host = {"fqdn": to.host, "port": to.port, "dns_record_type": "a"}
        await work.do(
            f"send its calls to {to.host}:{to.port}",
            lambda: telnyx.post_json(f"{_TELNYX}/fqdns", {"connection_id": connection_id, **host}),
        )
    work.found += [
        f"calls also go to {h['fqdn']}:{h['port']}; remove that there if it is not yours"
        for h in hosts
        if not _is_host(h, to)
    ]
    if held_by:
        work.found.append("the number is on the connection")
    else:
        path = f"{_TELNYX}/phone_numbers/{quote(str(bought[0]['id']))}"
        await work.do(
            f"put {number.e164} on the connection",
            lambda: telnyx.patch_json(path, {"connection_id": connection_id}),
        )


def _is_host(fqdn: Any, to: Destination) -> bool:
    return bool(fqdn["fqdn"] == to.host and (fqdn["port"] or 5060) == to.port)


def _has(actual: Any, wanted: Mapping[str, Any]) -> bool:
    return all(
        _has(actual.get(name) or {}, value)
        if isinstance(value, Mapping)
        else actual.get(name) == value
        for name, value in wanted.items()
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


# --- HTTP -----------------------------------------------------------------------------------------


def _keys(environment: Mapping[str, str], *names: str) -> tuple[str, ...]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise Invalid(f"missing: {', '.join(missing)}; set them in the environment or in .env")
    return tuple(environment[name] for name in names)


@dataclass(frozen=True)
class _Api:
    """One provider's REST API: JSON comes back, whatever is sent."""

    client: httpx.AsyncClient = field(repr=False)
    timeout: timedelta
    provider: str
    keys: str
    authorization: str = field(repr=False)

    async def get(self, url: str) -> Any:
        return await self._ask("GET", url, b"", "application/json")

    async def post(self, url: str, form: Mapping[str, str]) -> Any:
        return await self._ask(
            "POST", url, urlencode(form).encode(), "application/x-www-form-urlencoded"
        )

    async def post_json(self, url: str, body: Mapping[str, Any]) -> Any:
        return await self._ask("POST", url, json.dumps(body).encode(), "application/json")

    async def patch_json(self, url: str, body: Mapping[str, Any]) -> Any:
        return await self._ask("PATCH", url, json.dumps(body).encode(), "application/json")

    async def _ask(self, method: str, url: str, content: bytes, content_type: str) -> Any:
        headers = {
            "authorization": self.authorization,
            "accept": "application/json",
            "content-type": content_type,
        }
        try:
            async with asyncio.timeout(self.timeout.total_seconds()):
                reply = await self.client.request(method, url, headers=headers, content=content)
        except (httpx.HTTPError, TimeoutError) as error:
            why = "no answer came in time" if isinstance(error, TimeoutError) else in_words(error)
            raise Unavailable(f"{self.provider} did not answer: {why}; try again") from error
        if reply.status_code in (401, 403):
            raise Unauthorized(f"{self.provider} does not accept {self.keys} ({reply.status_code})")
        try:
            data = json.loads(reply.content)
        except ValueError:
            data = None
        if not 200 <= reply.status_code < 300 or not isinstance(data, dict):
            raise Unavailable(f"{self.provider} said {reply.status_code}: {_said(data)}")
        return data


def _said(data: Any) -> str:
    """The provider's own words, from its error's shape; numbers masked."""
    words = ""
    if isinstance(data, dict):
        first = (data.get("errors") or [{}])[0]
        words = str(data.get("message") or first.get("detail") or first.get("title") or "")
    return phone.mask(words)[:300] or "nothing that says why"
