"""What the pages in front of the log-in share: the form, and our address as browsers see it."""

from starlette.requests import Request
from starlette.responses import Response

from trunkline.access import queries
from trunkline.web.auth import is_loopback_name
from trunkline.web.dashboard import render
from trunkline.web.deps import Web

NO_STORE = {"Cache-Control": "no-store"}


async def login_form(
    web: Web,
    request: Request,
    *,
    next: str,
    status: int = 200,
    email: str = "",
    fault: str | None = None,
    choose: bool = False,
) -> Response:
    """The page to log in; with *choose* the provider lets people take another account."""
    async with web.db.look() as session:
        anybody = bool(await queries.users(session))
    return render.page(
        "login.html",
        status=status,
        headers=NO_STORE,
        next=next,
        email=email,
        fault=fault,
        choose=choose,
        anybody=anybody,
        secure=is_secure(request),
        passwords=web.options.passwords,
        sign_in=web.options.sign_in,
    )


def is_secure(request: Request) -> bool:
    """Whether a browser would keep the cookie: over https, or from this machine."""
    return _scheme(request) == "https" or is_loopback_name(request.headers.get("host", ""))


def address(request: Request, path: str) -> str:
    """The whole address of *path*, as the browser must ask for it."""
    return f"{_scheme(request)}://{request.headers.get('host', 'localhost')}{path}"


def _scheme(request: Request) -> str:
    proto = request.headers.get("x-forwarded-proto", request.url.scheme)
    return "https" if proto == "https" else "http"
