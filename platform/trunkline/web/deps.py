"""What routes are given: the database, the blobs and the clock of the running app."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database
from trunkline.web.options import WebOptions


@dataclass(frozen=True)
class Web:
    """The parts that every route may use."""

    db: Database
    blobs: Blobs
    options: WebOptions
    clock: Clock

    def now(self) -> datetime:
        """The present moment, in UTC."""
        return self.clock()


def web(request: Request) -> Web:
    """The parts that ``create_app`` was given."""
    parts = request.app.state.web
    assert isinstance(parts, Web)
    return parts


Parts = Annotated[Web, Depends(web)]
