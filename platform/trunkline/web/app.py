"""The web application: /v1 for programs, pages for people, /health and /ready for machines."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from trunkline.access.options import SignInOptions
from trunkline.errors import Unavailable
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database
from trunkline.kit.oidc import Provider
from trunkline.kit.probes import Check, database, problems
from trunkline.web import errors, examples
from trunkline.web.bell import Bell
from trunkline.web.dashboard import (
    call_pages,
    crm_pages,
    export_pages,
    import_pages,
    key_pages,
    list_pages,
    marks_pages,
    merge_pages,
    pages,
    people_pages,
    profile_pages,
    sign_in_pages,
    webhook_pages,
)
from trunkline.web.dashboard.language import Language, Languages
from trunkline.web.deps import Objections, Parts, Web
from trunkline.web.envelope import Envelope
from trunkline.web.errors import Problem, documented
from trunkline.web.options import WebOptions
from trunkline.web.people import Door
from trunkline.web.routes import (
    access,
    activities,
    calls,
    changes,
    contact_imports,
    contacts,
    deals,
    events,
    exports,
    hooks,
    livekit,
    marks,
    numbers,
    pipelines,
    profiles,
    views,
    webhooks,
)

_DESCRIPTION = """Calls answered by a voice agent: what was said, what was done, and the sound of it.

Send `Authorization: Bearer tl_…`; make a key with `trunkline key add`. Lists are paged by
`cursor`. Errors are `application/problem+json` (RFC 9457): act upon `code`, and quote `request_id`
when you ask for help."""

probes = APIRouter(tags=["probes"])


class Health(BaseModel):
    """The server lives."""

    status: Literal["ok"] = "ok"


@probes.get("/health", operation_id="get_health", summary="Does the server live")
async def health() -> Health:
    """Answers as long as the process does; asks nothing else."""
    return Health()


@probes.get(
    "/ready", operation_id="get_ready", summary="Can the server work", responses=documented(503)
)
async def ready(parts: Parts) -> Health:
    """Answers when the database does, and it is at this program's revision."""
    wrong = await problems([database(parts.db), *parts.needs])
    if wrong:
        raise Unavailable("; ".join(wrong))
    return Health()


def create_app(
    db: Database,
    blobs: Blobs,
    options: WebOptions,
    clock: Clock = utc_now,
    *,
    needs: Sequence[Check] = (),
    objections: Objections | None = None,
    languages: Mapping[str, Language] | None = None,
) -> FastAPI:
    """The ASGI application over an opened database and blob store, which stay the caller's to close.

    *needs* is what /ready looks at besides the database, for what else runs in this process; *objections* is
    asked before a profile is published; *languages* are those of the pages, by default what is installed.
    """
    # The interactive docs of FastAPI load their scripts from elsewhere; nothing here may.
    app = FastAPI(
        title="Trunkline", version="1", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    identity = _provider(options.sign_in) if options.sign_in else None
    app.state.web = Web(db, blobs, options, clock, Bell(db), tuple(needs), objections, identity)
    app.state.livekit_seen = livekit.Seen()
    app.state.livekit_probes = livekit.Seen(100)
    rooms = (
        *(
            exports,
            calls,
            marks,
            views,
            contact_imports,
            contacts,
            deals,
            pipelines,
            activities,
            changes,
            numbers,
            profiles,
        ),
        *(events, webhooks, hooks, access, livekit),
    )
    for room in rooms:
        app.include_router(room.router)
    app.include_router(probes)
    app.include_router(pages.help_router)
    if options.dashboard:
        app.include_router(list_pages.router)
        app.include_router(pages.router)
        app.include_router(marks_pages.router)
        app.include_router(export_pages.router)
        app.include_router(call_pages.router)
        app.include_router(people_pages.router)
        app.include_router(sign_in_pages.router)
        app.include_router(import_pages.router)
        app.include_router(merge_pages.router)
        app.include_router(crm_pages.router)
        app.include_router(webhook_pages.router)
        app.include_router(profile_pages.router)
        app.include_router(key_pages.router)
        app.add_middleware(Door)
    errors.install(app)
    app.add_middleware(Envelope, clock=clock)
    app.add_middleware(Languages, there_are=languages)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _provider(options: SignInOptions) -> Provider:
    return Provider(
        issuer=options.issuer,
        client_id=options.client_id,
        client_secret=options.client_secret,
    )


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with our problems in place of its own error form."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for theirs in ("HTTPValidationError", "ValidationError"):
        schemas.pop(theirs, None)
    ours = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= ours.pop("$defs", {})
    schemas["Problem"] = ours
    examples.add(document)
    app.openapi_schema = document
    return document
