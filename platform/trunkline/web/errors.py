"""How an error is told: RFC 9457 problem JSON to programs, a page to people.

A problem's ``type`` leads to ``/errors/<code>``, which says what the code means and what to do.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from trunkline.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    Refused,
    TooMany,
    TrunklineError,
    Unauthorized,
    Unavailable,
)
from trunkline.kit.blobs import BlobsUnavailable
from trunkline.kit.messages import N_
from trunkline.web.dashboard import render

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[TrunklineError], int] = {
    Invalid: 422,
    NotFound: 404,
    Conflict: 409,
    Refused: 403,
    Unauthorized: 401,
    Forbidden: 403,
    TooMany: 429,
    Misconfigured: 500,
    Unavailable: 503,
    TrunklineError: 500,
}
"""Error → HTTP status; a subclass inherits its parent's."""


@dataclass(frozen=True)
class Explained:
    """What the page ``/errors/<code>`` says."""

    title: str
    meaning: str
    remedy: str


EXPLAINED: dict[str, Explained] = {
    "invalid": Explained(
        N_("The request is not valid"),
        N_("A parameter or field has the wrong form, or lies outside its bounds."),
        N_(
            "Read `detail` and `errors`: they name each field and what it must be. A cursor is "
            "to be sent back exactly as it was given."
        ),
    ),
    "idempotency_key_reused": Explained(
        N_("The Idempotency-Key belongs to another request"),
        N_("The same key came before, within a day, with another address or body."),
        N_(
            "Send each new request with a new key, and repeat a request with the same key and body."
        ),
    ),
    "not_found": Explained(
        N_("Nothing is there"),
        N_("No thing has that id, or no page has that address."),
        N_("Check the id and the path. Ids say what they name: call_…, con_…, evt_…."),
    ),
    "conflict": Explained(
        N_("It clashes with what is there"),
        N_("Somebody or something changed it first, or it exists already."),
        N_("Fetch it again, look at what changed, and decide anew."),
    ),
    "illegal_transition": Explained(
        N_("The call cannot do that now"),
        N_("A call in this state has no such next step; an ended call stays ended."),
        N_("Fetch the call and look at its state."),
    ),
    "stale_lease": Explained(
        N_("The call was taken over"),
        N_("Another agent holds this call; what the former one writes is refused."),
        N_("Nothing is to be done: the new agent goes on."),
    ),
    "do_not_call": Explained(
        N_("The person does not want to be called"),
        N_("The contact is marked do-not-call."),
        N_("Do not call. If they changed their mind, change the contact first."),
    ),
    "outside_hours": Explained(
        N_("Nobody is called at that hour"),
        N_("It lies outside the profile's `outbound.hours`, read where the person called is."),
        N_("Send `not_before` with the moment that `detail` names, or later."),
    ),
    "called_enough": Explained(
        N_("The number was called often enough"),
        N_("The profile's `outbound.max_calls_per_number_per_day` is reached."),
        N_("Wait until 24 hours have passed since the first of those calls."),
    ),
    "refused": Explained(
        N_("A rule says no"),
        N_("The request is well-formed and allowed, but a business rule forbids it."),
        N_("Read `detail`: it names the rule."),
    ),
    "unauthorized": Explained(
        N_("No valid API key came with the request"),
        N_("The key is missing, mistyped or was revoked."),
        N_("Send `Authorization: Bearer tl_…`. Make a key with `trunkline key add`."),
    ),
    "forbidden": Explained(
        N_("The key may not do this"),
        N_("The key is valid but lacks the scope that `detail` names."),
        N_("Make a key that has the scope with `trunkline key add`."),
    ),
    "too_many_requests": Explained(
        N_("Too often"),
        N_("Too many attempts came in a short time."),
        N_("Wait as long as the header `Retry-After` says, then try again."),
    ),
    "cross_site": Explained(
        N_("The request came from another site"),
        N_("A form of another site, or a browser that hides where it comes from, sent this."),
        N_("Open the page here and send it again from there."),
    ),
    "login_needed": Explained(
        N_("Nobody is logged in"),
        N_("This browser has no login, or it has ended."),
        N_("Log in at `/login`."),
    ),
    "link_refused": Explained(
        N_("This link no longer plays"),
        N_(
            "A link to a recording lasts for minutes, and only as long as the key that made it "
            "may hear recordings. This one has expired or was changed."
        ),
        N_("Ask for a new one: `POST /v1/calls/{id}/recording/link`."),
    ),
    "not_allowed": Explained(
        N_("Your role may not do this"),
        N_("You are logged in, but your role lacks the right that `detail` names."),
        N_("Ask an owner to give you another role, or to do it for you."),
    ),
    "loopback_only": Explained(
        N_("The pages answer only this machine"),
        N_(
            "The server runs without logins (`TRUNKLINE_LOGIN=off`, as the demo does), so its "
            "pages are shown to nobody who comes from elsewhere, through a proxy, or under "
            "another name than localhost."
        ),
        N_(
            "Open it as http://127.0.0.1 on the machine itself or through `ssh -L`, or start it"
            " with logins."
        ),
    ),
    "method_not_allowed": Explained(
        N_("That method is not offered here"),
        N_("The address exists, but not with this HTTP method."),
        N_("The header `Allow` names the methods it has."),
    ),
    "range_not_satisfiable": Explained(
        N_("That part does not exist"),
        N_("The requested range begins behind the end of the recording."),
        N_("The header `Content-Range` tells the recording's size in bytes."),
    ),
    "misconfigured": Explained(
        N_("The server's settings are wrong"),
        N_("The server cannot do this as it is set up."),
        N_("Whoever runs it finds the cause in its log, under the request id."),
    ),
    "unavailable": Explained(
        N_("Something outside did not answer"),
        N_("The database or a service behind the server did not answer in time."),
        N_("Try again after a moment; what was stored stays stored."),
    ),
    "provider_failed": Explained(
        N_("A speech or language provider failed"),
        N_("The provider answered with an error or not at all."),
        N_("Read `detail`: it names the provider and the remedy."),
    ),
    "error": Explained(
        N_("Something went wrong"),
        N_("The server knows what failed but has no narrower word for it."),
        N_("Whoever runs the server finds more in its log, under the request id."),
    ),
    "internal_error": Explained(
        N_("Something went wrong on our side"),
        N_("The server met something it does not know. Nothing half done was stored."),
        N_("Try again. If it stays, look into the server's log for the request id."),
    ),
}
"""Code → what it means; the codes are stable."""


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="Place and name of the field.", examples=["query.limit"])
    message: str = Field(
        description="What it must be.", examples=["Input should be less than or equal to 200"]
    )


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/errors/not_found",
                    "title": "Nothing is there",
                    "status": 404,
                    "detail": "there is no call call_01kf0q8m3s7t9v1w3x5y7z9abc",
                    "code": "not_found",
                    "instance": "/v1/calls/call_01kf0q8m3s7t9v1w3x5y7z9abc",
                    "request_id": "req_01kf0q8m3s7t9v1w3x5y7z9abq",
                }
            ]
        }
    )

    type: str = Field(description="Address of a page that explains the code.")
    title: str = Field(description="The kind of problem, always the same for a code.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time, and what to do.")
    code: str = Field(description="Stable word to act upon.")
    instance: str = Field(description="The path that was asked for.")
    request_id: str = Field(description="The same as in X-Request-Id; stands in the server's log.")
    errors: list[Fault] | None = Field(
        default=None, description="Each fault of an invalid request."
    )


def status_of(error: TrunklineError) -> int:
    """The HTTP status of an error: its own, or that of its nearest parent."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[Fault] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer that tells of a problem: a page where a browser asks for one, otherwise JSON."""
    known = EXPLAINED.get(code)
    phrase = HTTPStatus(status).phrase
    body = Problem(
        type=f"/errors/{code}" if known else "about:blank",
        title=known.title if known else phrase,
        status=status,
        detail=_sentence(detail),
        code=code,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        errors=errors,
    )
    if _is_page(request):
        return render.page(
            "error.html",
            status=status,
            headers=headers,
            problem=body,
            remedy=known and known.remedy,
        )
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE
    )


def _sentence(text: str) -> str:
    """Begun with a capital and ended with a stop; an id or a field at the start stays as it is."""
    first = text.partition(" ")[0]
    begun = text[:1].upper() + text[1:] if first.isalpha() else text
    return begun if begun.endswith((".", "!", "?")) else begun + "."


API_PATHS = ("/v1", "/openapi.json", "/health", "/ready")
"""Where programs ask; every other path is a page for people."""


def is_api(path: str) -> bool:
    """Whether *path* is for programs."""
    return any(path == start or path.startswith(start + "/") for start in API_PATHS)


def _is_page(request: Request) -> bool:
    if is_api(request.url.path):
        return False
    return "text/html" in request.headers.get("accept", "")


def unexpected(request: Request, error: Exception) -> Response:
    """The answer to an error nobody foresaw: its text goes to the log, never to the caller."""
    log.error("request_failed", path=request.url.path, exc_info=error)
    return problem(
        request,
        500,
        "internal_error",
        N_(
            "The server met an unexpected error. Try again; if it stays, tell whoever runs the server "
            "the request id."
        ),
    )


async def _on_trunkline_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TrunklineError)
    status = status_of(error)
    if status == 500:
        log.error("request_failed", path=request.url.path, exc_info=error)
        return problem(
            request,
            500,
            error.code,
            N_("The server cannot do this; its log says why, by request id."),
        )
    headers = {"Retry-After": "2"} if status == 503 else getattr(error, "headers", None)
    if error.code == "login_needed" and _is_page(request):
        return Response(status_code=303, headers=headers)
    if isinstance(error, TooMany):
        headers = {"Retry-After": str(math.ceil(error.retry_after.total_seconds()))}
    return problem(request, status, error.code, str(error), headers=headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        Fault(where=".".join(str(part) for part in fault["loc"]), message=fault["msg"])
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault.where}: {fault.message}" for fault in faults)
    return problem(request, 422, Invalid.code, detail, errors=faults)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status == 400 and is_api(request.url.path):  # nested too deep, or broken off
        return problem(request, 422, Invalid.code, "The body cannot be read as JSON.")
    code = re.sub(r"[^a-z]+", "_", HTTPStatus(status).phrase.lower()).strip("_")
    detail, allowed = error.detail, None
    if status == 404:
        detail = N_("There is nothing at this address.")
    elif status == 405:
        allowed = ", ".join(_methods(request.app.routes, request.url.path)) or "GET"
        detail = f"This address does not take {request.method}; it takes {allowed}."
    headers = dict(error.headers) if error.headers else None
    if headers and allowed:
        headers["Allow"] = allowed
    return problem(request, status, code, detail, headers=headers)


def _methods(routes: Iterable[Any], path: str) -> list[str]:
    """What an address takes by all its routes together; the router itself tells of the first alone."""
    found = [route for route in _flat(routes) if route.path_regex.match(path)]
    same = [route for route in found if route.path == found[0].path]
    return sorted({method for route in same for method in route.methods or ()})


def _flat(routes: Iterable[Any]) -> Iterator[Route]:
    for route in routes:
        if hasattr(route, "original_router"):  # routers that were included stand as themselves
            yield from _flat(route.original_router.routes)
        elif isinstance(route, Route):
            yield route


async def _on_storage_trouble(request: Request, error: Exception) -> Response:
    log.error("storage_unavailable", path=request.url.path, exc_info=error)
    what = "store of recordings" if isinstance(error, BlobsUnavailable) else "database"
    return problem(
        request,
        503,
        Unavailable.code,
        f"The {what} did not answer. Try again after a moment.",
        headers={"Retry-After": "2"},
    )


async def _on_unstorable(request: Request, error: Exception) -> Response:
    # NUL, which PostgreSQL's text cannot hold, or half a surrogate pair, which UTF-8 cannot write.
    log.warning("request_unstorable", path=request.url.path, error=type(error).__name__)
    return problem(
        request,
        422,
        Invalid.code,
        N_("The request holds a character or number that cannot be stored."),
    )


def install(app: FastAPI) -> None:
    """Let *app* answer every error in these words."""
    app.add_exception_handler(TrunklineError, _on_trunkline_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for trouble in (OperationalError, PoolTimeout, BlobsUnavailable):
        app.add_exception_handler(trouble, _on_storage_trouble)
    for unstorable in (DataError, UnicodeEncodeError):
        app.add_exception_handler(unstorable, _on_unstorable)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these errors, for a route's ``responses``."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }
