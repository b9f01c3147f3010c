"""What routes are given: the database, the blobs and the clock of the running app."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from trunkline.errors import Misconfigured
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database
from trunkline.kit.oidc import Provider
from trunkline.kit.probes import Check
from trunkline.profiles.body import ProfileBody
from trunkline.web.bell import Bell
from trunkline.web.options import WebOptions
from trunkline.webhooks.options import EndpointOptions

Objections = Callable[[ProfileBody], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Web:
    """The parts that every route may use."""

    db: Database
    blobs: Blobs
    options: WebOptions
    clock: Clock
    bell: Bell
    needs: tuple[Check, ...] = ()
    """What /ready looks at besides the database."""
    objections: Objections | None = None
    """What the providers say against a profile that is about to be published, a sentence each."""
    identity: Provider | None = None
    """The identity provider of ``options.sign_in``."""

    def now(self) -> datetime:
        """The present moment, in UTC."""
        return self.clock()

    @property
    def endpoint_options(self) -> EndpointOptions:
        """What endpoints are made with. Raises Misconfigured when the server was given none."""
        if self.options.endpoints is None:
            raise Misconfigured(
                "this server was started without a key for the secrets of endpoints"
            )
        return self.options.endpoints


def web(request: Request) -> Web:
    """The parts that ``create_app`` was given."""
    parts = request.app.state.web
    assert isinstance(parts, Web)
    return parts


Parts = Annotated[Web, Depends(web)]
