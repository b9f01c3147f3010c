"""What the web edge is told at start."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WebOptions:
    """Settings of the API and the pages; picklable, reads no environment."""

    dashboard: bool = True
    """Whether the pages for people are served. They answer only this machine: there is no login."""
