"""What the verbs of endpoints and the courier are told at start. Picklable, reads no environment."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True)
class EndpointOptions:
    """What may be an endpoint, and how its secrets are kept."""

    keys: tuple[str, ...]
    """Keys that secrets are sealed with (kit.crypt): the first seals, all open. At least one."""
    allow: tuple[str, ...] = ()
    """Hosts, addresses and networks that may be sent to though they are not public, also without TLS and on
    any port: ``n8n.lan``, ``127.0.0.1``, ``10.1.0.0/16``. Everything else must be public and https."""
    overlap: timedelta = timedelta(hours=24)
    """How long the old secret signs too after a rotation, unless the rotation says otherwise."""


@dataclass(frozen=True)
class CourierOptions:
    """Limits of delivery."""

    endpoints: EndpointOptions
    total: timedelta = timedelta(seconds=15)
    """Longest time one attempt may take, from connecting to the last byte of the answer that is kept.
    Standard Webhooks advises 15 to 30 s."""
    connect: timedelta = timedelta(seconds=5)
    """Longest time to a connection, name and TLS included."""
    lease: timedelta = timedelta(seconds=3)
    """How long a claimed delivery is left alone by others. The courier renews it while it has it in hand, so
    this is how long what a killed one had in hand waits."""
    grace: timedelta = timedelta(seconds=5)
    """How long attempts under way may still take when the courier is asked to stop."""
    idle: timedelta = timedelta(seconds=1)
    """Longest wait without looking, should a wake-up get lost. Also the wait after a failed round."""
    max_in_flight: int = 64
    """Attempts at the same time."""
    max_per_endpoint: int = 8
    """Attempts at the same time to one endpoint, so that a slow one never holds up the others. One whose last
    attempt failed gets a single one."""
    ahead: int = 4
    """How many times ``max_per_endpoint`` is claimed at once, so that few transactions move many."""
    max_body_bytes: int = 4_096
    """How much of an answer is read and kept."""
    batch: int = 500
    """Events published in one transaction."""
    proxy: str | None = None
    """An outgoing proxy, ``http://host:port``, which then checks the addresses (stripe/smokescreen)."""
    ca_file: Path | None = None
    """Certificates that are trusted besides the public ones, for receivers of a private authority."""
    keep_delivered: timedelta = timedelta(days=30)
    """How long the log of a delivery that arrived is kept."""
    keep_failed: timedelta = timedelta(days=90)
    """How long dead letters are kept."""
