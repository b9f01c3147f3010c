"""What the web edge is told at start."""

from dataclasses import dataclass

from trunkline.access.options import SignInOptions
from trunkline.kit.livekit import LiveKitOptions
from trunkline.webhooks.options import EndpointOptions


@dataclass(frozen=True)
class WebOptions:
    """Settings of the API and the pages; picklable, reads no environment."""

    dashboard: bool = True
    """Whether the pages for people are served."""
    login: bool = True
    """Whether people must log in. Without logins the pages answer this machine alone, and whoever sits
    at it may do everything: for the demo and for trying things out."""
    passwords: bool = True
    """Whether people may log in by password; without it only through ``sign_in``, and owners by a one-time
    link."""
    sign_in: SignInOptions | None = None
    """The identity provider through which people log in, if there is one."""
    endpoints: EndpointOptions | None = None
    """What may be an endpoint, and how its secrets are kept. Without it endpoints can be seen and
    deleted, but neither made nor changed."""
    livekit: LiveKitOptions | None = None
    """Whose webhooks are taken, by the secret that signs them; None takes none."""
