"""One OpenID Connect provider: asked what it offers, where people sign in, and who came back.

The authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0 §3.1, RFC 7636, RFC 9700). It
knows nothing of our people: it answers with claims that the provider has signed, or says why there are none.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from trunkline.kit.http import as_address, in_words, open_client

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "Ed25519", "EdDSA"),
)
"""Signatures that only the provider can make. With ``none`` or HS256 anybody could."""

LEEWAY = timedelta(seconds=60)
"""How far the provider's clock may be from ours."""

_KEPT = timedelta(hours=1)
_SCOPES = "openid email profile"
_MAX_TOKEN_CHARS = 100_000

Reason = Literal["unreachable", "issuer", "metadata", "secret", "code", "refused", "clock", "token"]


class OidcFailed(Exception):
    """The provider gave no claims. The message says what happened, a semicolon, and what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Offer:
    """What the provider says of itself (OpenID Connect Discovery 1.0 §3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    post_secret: bool
    """Whether the client's secret is sent in the form; else in the header."""
    names_itself: bool
    """Whether it says who it is on the way back (RFC 9207)."""
    clock_ahead: timedelta | None
    """How far its clock is ahead of ours, to the second; None when it does not tell."""


@dataclass
class _Known:
    offer: Offer | None = None
    offer_at: datetime | None = None
    keys: KeySet | None = None
    keys_at: datetime | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Provider:
    """A provider, by its issuer. What it says of itself and its keys are kept for an hour."""

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: str,
        connect: timedelta = timedelta(seconds=4),
        total: timedelta = timedelta(seconds=8),
    ) -> None:
        """*connect* bounds the making of a connection, *total* each question with its answer."""
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._connect = connect
        self._total = total
        self._known = _Known()

    async def offer(self, *, now: datetime) -> Offer:
        """What it offers. Raises OidcFailed; not while an older answer is still known."""
        known = self._known
        async with known.lock:
            if known.offer is None or known.offer_at is None or known.offer_at <= now - _KEPT:
                try:
                    known.offer = await self._discover(now)
                    known.offer_at = now
                except OidcFailed:
                    if known.offer is None:
                        raise
            return known.offer

    async def sign_in_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        nonce: str,
        verifier: str,
        choose: bool,
        now: datetime,
    ) -> str:
        """Where the browser is sent; *choose* lets people take another account than last time."""
        offer = await self.offer(now=now)
        url: str = prepare_grant_uri(
            offer.authorization_endpoint,
            client_id=self._client_id,
            response_type="code",
            redirect_uri=redirect_uri,
            scope=_SCOPES,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **({"prompt": "select_account"} if choose else {}),
        )
        return url

    async def redeem(
        self,
        *,
        code: str,
        issuer: str | None,
        redirect_uri: str,
        nonce: str,
        verifier: str,
        wanted: Sequence[str],
        now: datetime,
    ) -> Mapping[str, Any]:
        """The claims about whoever came back with *code*. Raises OidcFailed.

        *issuer* is who sent them back, if it was said. Claims of *wanted* that are not in the id token are
        asked for at the provider's userinfo endpoint.
        """
        offer = await self.offer(now=now)
        if issuer != offer.issuer and (issuer is not None or offer.names_itself):
            raise OidcFailed("token", "the answer came from another provider; start again")
        answer = await self._token(offer, code, redirect_uri, verifier)
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str) or len(id_token) > _MAX_TOKEN_CHARS:
            raise OidcFailed("token", "the provider sent no id token; allow it the scope openid")
        token = await self._verified(offer, id_token, now)
        claims = self._checked(token, access_token, nonce, now)
        if offer.userinfo_endpoint and any(name not in claims for name in wanted):
            if not isinstance(access_token, str):
                return claims
            return await self._more(offer.userinfo_endpoint, access_token, claims)
        return claims

    async def keys(self, *, now: datetime, fresh: bool = False) -> KeySet:
        """The provider's public keys that sign. Raises OidcFailed."""
        offer = await self.offer(now=now)
        known = self._known
        async with known.lock:
            if fresh or known.keys is None or known.keys_at is None or known.keys_at <= now - _KEPT:
                status, body, _ = await self._ask("GET", offer.jwks_uri)
                try:
                    if status != 200:
                        raise ValueError(f"HTTP {status}")
                    read = KeySet.import_key_set(body)
                except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
                    raise OidcFailed(
                        "metadata",
                        f"the keys at {offer.jwks_uri} cannot be read ({error}); "
                        "look there with a browser, and ask who runs the provider",
                    ) from None
                known.keys, known.keys_at = read, now
            return known.keys

    async def _discover(self, now: datetime) -> Offer:
        _must_be_safe(self.issuer, "the issuer")
        url: str = get_well_known_url(self.issuer, external=True)
        status, body, date = await self._ask("GET", url)
        if status != 200 or not isinstance(body, dict):
            raise OidcFailed(
                "metadata",
                f"{url} answered HTTP {status}{'' if status != 200 else ', but no JSON object'}; "
                "set TRUNKLINE_OIDC_ISSUER to what the provider calls its issuer",
            )
        if body.get("issuer") != self.issuer:
            raise OidcFailed(
                "issuer",
                f"the provider calls itself {body.get('issuer')!r}, the setting {self.issuer!r}; "
                "set TRUNKLINE_OIDC_ISSUER to exactly the provider's own word",
            )
        found: dict[str, str | None] = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            value = body.get(name)
            if not isinstance(value, str):
                if name != "userinfo_endpoint":
                    raise OidcFailed(
                        "metadata",
                        f"{url} names no {name}; is this an OpenID Connect provider?",
                    )
                value = None
            else:
                _must_be_safe(value, name)
            found[name] = value
        methods = body.get("token_endpoint_auth_methods_supported")
        return Offer(
            issuer=self.issuer,
            authorization_endpoint=found["authorization_endpoint"] or "",
            token_endpoint=found["token_endpoint"] or "",
            jwks_uri=found["jwks_uri"] or "",
            userinfo_endpoint=found["userinfo_endpoint"],
            # In a header it would have to be encoded, which not every provider decodes.
            post_secret=isinstance(methods, list) and "client_secret_post" in methods,
            names_itself=body.get("authorization_response_iss_parameter_supported") is True,
            clock_ahead=date - now if date else None,
        )

    async def _token(
        self, offer: Offer, code: str, redirect_uri: str, verifier: str
    ) -> Mapping[str, Any]:
        body: str = prepare_token_request(
            "authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if offer.post_secret:
            auth = ClientAuth(self._client_id, self._client_secret, "client_secret_post")
        else:  # RFC 6749 §2.3.1: both are encoded as in a form, then joined
            auth = ClientAuth(quote(self._client_id, safe=""), quote(self._client_secret, safe=""))
        _, headers, body = auth.prepare("POST", offer.token_endpoint, headers, body)
        status, answer, _ = await self._ask(
            "POST", offer.token_endpoint, headers=headers, content=body
        )
        fields = answer if isinstance(answer, dict) else {}
        if status == 200 and fields:
            return fields
        error = fields.get("error")
        error = error if isinstance(error, str) else f"HTTP {status}"
        if error in ("invalid_client", "unauthorized_client") or status == 401:
            raise OidcFailed(
                "secret",
                f"the provider refused our client id and secret ({error}); set TRUNKLINE_OIDC_CLIENT_ID "
                "and TRUNKLINE_OIDC_CLIENT_SECRET as the provider shows them",
            )
        if error == "invalid_grant":
            raise OidcFailed("code", "the code was used before or is too old; start again")
        if status >= 500:
            raise OidcFailed("unreachable", f"the provider answered HTTP {status}; try again soon")
        raise OidcFailed("refused", f"the provider refused the code: {error[:100]}; start again")

    async def _verified(self, offer: Offer, token: str, now: datetime) -> jws.CompactSignature:
        """The token, if one of the provider's keys signed it; its newest are asked for when none did."""
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError) as error:
            raise _bad_token(f"it cannot be read ({error})") from None
        if header.get("alg") not in ALGORITHMS:
            raise _bad_token(f"it is signed with {str(header.get('alg'))[:20]!r}")
        for fresh in (False, True):
            for key in _candidates(await self.keys(now=now, fresh=fresh), header.get("kid")):
                try:
                    return jws.deserialize_compact(token, key, algorithms=ALGORITHMS)
                except (JoseError, ValueError):
                    continue
        raise _bad_token("none of the provider's keys signed it")

    def _checked(
        self, token: jws.CompactSignature, access_token: Any, nonce: str, now: datetime
    ) -> Mapping[str, Any]:
        try:
            payload = json.loads(token.payload)
            if not isinstance(payload, dict):
                raise ValueError("it is no JSON object")
            claims = CodeIDToken(
                payload,
                token.headers(),
                options={
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                },
                params={
                    "nonce": nonce,
                    "client_id": self._client_id,
                    "access_token": access_token,
                },
            )
            at = int(now.timestamp())
            issued = payload.get("iat")
            if isinstance(issued, int | float) and issued > at + LEEWAY.total_seconds():
                raise OidcFailed(
                    "clock",
                    f"the id token is of {round(issued - at)} s in the future; "
                    "set the clock of this server, or the provider's, by NTP",
                )
            claims.validate(now=at, leeway=int(LEEWAY.total_seconds()))
        except ExpiredTokenError:
            raise OidcFailed(
                "clock",
                "the id token is out of date; set the clock of this server, or the provider's, by NTP",
            ) from None
        except (JoseError, ValueError, TypeError) as error:
            raise _bad_token(str(error)) from None
        if not isinstance(payload["sub"], str) or not 0 < len(payload["sub"]) <= 255:
            raise _bad_token("its subject is none")
        return payload

    async def _more(
        self, url: str, access_token: str, claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """*claims* with what the userinfo endpoint adds (OpenID Connect Core 1.0 §5.3)."""
        status, body, _ = await self._ask(
            "GET", url, headers={"Authorization": f"Bearer {access_token}"}
        )
        if status != 200 or not isinstance(body, dict):
            raise OidcFailed(
                "refused", f"{url} answered HTTP {status}; allow the client email and profile there"
            )
        if body.get("sub") != claims["sub"]:
            raise _bad_token("userinfo speaks of somebody else")
        return {**body, **claims}

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: str | None = None,
    ) -> tuple[int, Any, datetime | None]:
        """Status, the body if it is JSON, and the time of the other side."""
        try:
            async with (
                asyncio.timeout(self._total.total_seconds()),
                open_client(connect=self._connect, total=self._total, max_connections=1) as client,
            ):
                answer = await client.request(
                    method,
                    url,
                    headers={"Accept": "application/json", **(headers or {})},
                    content=content,
                )
        except TimeoutError:
            why = f"no answer within {self._total.total_seconds():g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = in_words(error)
        else:
            try:
                body = answer.json()
            except ValueError:
                body = None
            return answer.status_code, body, _date(answer.headers.get("date"))
        raise OidcFailed(
            "unreachable",
            f"the provider at {urlsplit(url).netloc} cannot be reached: {why}; check "
            "TRUNKLINE_OIDC_ISSUER, and that this server may connect to it",
        )


def _candidates(keys: KeySet, kid: Any) -> Iterator[RSAKey | ECKey | OKPKey]:
    for key in keys:
        if (
            isinstance(key, RSAKey | ECKey | OKPKey)
            and key.as_dict(private=False).get("use", "sig") == "sig"
            and (kid is None or key.kid == kid)
        ):
            yield key


def _bad_token(why: str) -> OidcFailed:
    return OidcFailed(
        "token",
        f"the provider's id token is not valid: {why}; start again, and if it stays so look at the "
        "provider's settings for this client",
    )


def _must_be_safe(url: str, what: str) -> None:
    """Raise OidcFailed unless *url* is https, or of this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = as_address(host)
    here = host == "localhost" or (address is not None and address.is_loopback)
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise OidcFailed("metadata", f"{what} is {url!r}; it must begin with https://")


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
