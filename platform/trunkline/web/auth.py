"""Who may use /v1: API keys with their scopes; and what comes from this machine."""

import ipaddress
from typing import Annotated, ClassVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from trunkline.access import queries, service
from trunkline.access.models import ApiKey
from trunkline.errors import Forbidden, Unauthorized
from trunkline.web.deps import Parts


class KeyMissing(Unauthorized):
    """No valid key; tells the client which scheme to use (RFC 6750 §3)."""

    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Bearer realm="trunkline"'}


class ScopeMissing(Forbidden):
    """The key is good but does not reach this far (RFC 6750 §3.1)."""

    def __init__(self, scope: str, key: ApiKey) -> None:
        super().__init__(
            f"this needs the scope {scope}; the key {key.name!r} has "
            f"{', '.join(key.scopes)}; make another with: trunkline key add --scope {scope}"
        )
        self.headers = {
            "WWW-Authenticate": f'Bearer realm="trunkline", error="insufficient_scope", scope="{scope}"'
        }


_bearer = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="tl_ and 43 characters",
    description="A key made with `trunkline key add`.",
    auto_error=False,
)


async def authenticate(
    parts: Parts,
    needed: SecurityScopes,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> ApiKey:
    """The key that came with the request. Raises Unauthorized or Forbidden."""
    if given is None:
        raise KeyMissing("send an API key as `Authorization: Bearer tl_…`")
    now = parts.now()
    async with parts.db.look() as session:
        key = await queries.key_for(session, given.credentials, now=now)
    if key is None:
        raise KeyMissing(
            "this API key is not valid, has ended or was revoked; make one with: trunkline key add"
        )
    for scope in needed.scopes:
        if scope not in key.scopes:
            raise ScopeMissing(scope, key)
    if service.use_is_due(key, now=now):
        async with parts.db.work() as session:
            await service.note_use(session, key.id, now=now)
    return key


def needs(scope: str) -> ApiKey:
    """A route's default argument: a key with *scope* must come with the request."""
    key: ApiKey = Security(authenticate, scopes=[scope])
    return key


AnyKey = Annotated[ApiKey, Depends(authenticate)]
"""A valid key, whatever its scopes."""

_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def foreign(request: Request) -> str | None:
    """Why a request cannot be of somebody at this machine; None if it is.

    The client's address must be a loopback one. So must the name in ``Host``: otherwise a foreign
    site could point its own name at 127.0.0.1 and read the pages through the visitor's browser (DNS
    rebinding). What came through a proxy is refused, since its true sender is not known.
    """
    if request.client is None or not is_loopback_address(request.client.host):
        return "the request came from another address"
    if any(header in request.headers for header in _PROXIED):
        return "the request came through a proxy"
    if not is_loopback_name(request.headers.get("host", "")):
        return "the address in the browser must begin with 127.0.0.1 or localhost"
    return None


def is_loopback_address(text: str) -> bool:
    """Whether *text* is an IP address that only this machine can have."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_loopback_name(host: str) -> bool:
    """Whether a ``Host`` header names this machine: localhost (RFC 6761) or a loopback address."""
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)
