"""What several files of this folder talk to: the pages, and other people's servers over their protocols."""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from joserfc import jws, jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from trunkline.kit import asgi
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(now: datetime) -> Clock:
    """A clock that stands until the test sets its ``now``."""
    return Clock(now)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """An empty folder for recordings and other files."""
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


Browse = Callable[..., httpx.AsyncClient]
"""``browse(app)``: see :func:`browse`."""


@pytest.fixture
def browse() -> Browse:
    """A browser on the server's own machine, looking at an app; with *catches* its faults are pages."""

    def browse(app: Starlette, *, catches: bool = False) -> httpx.AsyncClient:
        here = ("127.0.0.1", 50_000)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=here, raise_app_exceptions=not catches),
            base_url="http://127.0.0.1:8000",
            headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
        )

    return browse


@pytest.fixture
async def client(
    sqlite_db: Database, blobs: Blobs, now: datetime, browse: Browse
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser at pages on which nobody has to log in."""
    app = create_app(sqlite_db, blobs, WebOptions(login=False), clock=lambda: now)
    async with browse(app) as client:
        yield client


# --- an identity provider -----------------------------------------------------------------------

CLIENT, SECRET = "trunkline", "s3cret: with / all + of % it"


@dataclass
class IdentityProvider:
    """An OpenID Connect provider: discovery, authorization code with PKCE, keys, userinfo.

    It lets everybody in as ``who``. ``faults`` are claims that its id tokens hold instead of the right ones;
    the other fields make it misbehave otherwise.
    """

    issuer: str
    clock: Callable[[], datetime]
    who: dict[str, Any] = field(
        default_factory=lambda: {
            "sub": "u-1",
            "email": "Dana@Example.com",
            "email_verified": True,
            "name": "Dana Whitfield",
        }
    )
    faults: dict[str, Any] = field(default_factory=dict)
    offer: dict[str, Any] = field(default_factory=dict)
    """What discovery says beside or instead of the usual."""
    algorithm: str = "RS256"
    """RS256; or ``none``; or HS256, by the public key as if it were a secret."""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    signs_with: RSAKey | None = None
    """A key that its key set does not hold."""
    refuses: str | None = None
    """The error that the authorization endpoint answers."""
    thin: bool = False
    """Whether the id token holds nothing of the person, so that userinfo must be asked."""
    token_status: int = 200
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    asked: list[str] = field(default_factory=list)
    """Paths, in the order in which they were asked for."""

    def rotate(self) -> None:
        """Sign with another key from now on, and publish it in place of the old one."""
        self.key = RSAKey.generate_key(2048, {"kid": f"key-{len(self.asked)}"})

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/keys", self._keys),
            Route("/userinfo", self._userinfo),
        ]
        return Starlette(routes=routes)

    async def _discovery(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        usual = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse(usual | self.offer)

    async def _authorize(self, request: Request) -> Response:
        given = dict(request.query_params)
        assert given["response_type"] == "code"
        assert given["code_challenge_method"] == "S256"
        assert "openid" in given["scope"].split()
        back = {"state": given["state"], "iss": self.issuer}
        if self.refuses:
            back["error"] = self.refuses
        else:
            back["code"] = f"code-{next(self.numbers)}"
            self.codes[back["code"]] = given
        return RedirectResponse(f"{given['redirect_uri']}?{urlencode(back)}", 303)

    async def _token(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if self.token_status != 200:
            return Response("down for maintenance", self.token_status)
        form = dict(await request.form())
        if self._client(request, form) != (CLIENT, SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        given = self.codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            given is None
            or given["code_challenge"] != challenge
            or given["redirect_uri"] != form["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        at = int(self.clock().timestamp())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": self.who["sub"],
            "iat": at,
            "exp": at + 300,
            "nonce": given["nonce"],
            **({} if self.thin else self.who),
            **self.faults,
        }
        token = self._signed(claims)
        return JSONResponse({"access_token": "at-1", "token_type": "Bearer", "id_token": token})

    def _client(self, request: Request, form: dict[str, Any]) -> tuple[str, str]:
        from urllib.parse import unquote

        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            return unquote(name), unquote(secret)
        return str(form.get("client_id")), str(form.get("client_secret"))

    def _signed(self, claims: dict[str, Any]) -> str:
        key = self.signs_with or self.key
        header = {"alg": self.algorithm, "kid": str(key.kid)}
        if self.algorithm == "none":
            parts = (json.dumps(header).encode(), json.dumps(claims).encode(), b"")
            return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)
        if self.algorithm == "HS256":
            # The attack of RFC 8725 §2.1: the public key, taken for a shared secret.
            shared = OctKey.import_key(base64.b64encode(key.as_pem(private=False)))
            return str(jwt.encode(header, claims, shared, algorithms=["HS256"]))
        return str(jwt.encode(header, claims, key, registry=jws.JWSRegistry()))

    async def _keys(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return JSONResponse({"keys": [self.key.as_dict(private=False, use="sig")]})

    async def _userinfo(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if request.headers.get("authorization") != "Bearer at-1":
            return Response(status_code=401)
        return JSONResponse(self.who)


ServeIdentity = Callable[[Callable[[], datetime]], Any]


@contextlib.asynccontextmanager
async def _serve(clock: Callable[[], datetime]) -> AsyncIterator[IdentityProvider]:
    listener = asgi.listen("127.0.0.1", 0)
    provider = IdentityProvider(f"http://127.0.0.1:{listener.getsockname()[1]}", clock)
    started = asyncio.Event()
    task = asyncio.create_task(asgi.serve(provider.app, listener, started.set))
    try:
        await started.wait()
        yield provider
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


@pytest.fixture
def serve_identity() -> ServeIdentity:
    """``async with serve_identity(clock) as provider``: an OpenID Connect provider on loopback."""
    return _serve
