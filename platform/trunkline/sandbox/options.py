"""What the sandbox's providers are told at start: address, key, how slow and how broken they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from trunkline.sandbox.faults import Fault


@dataclass(frozen=True)
class Delays:
    """How long the simulated providers take, near what the real ones were measured at."""

    stt_final: timedelta = timedelta(milliseconds=260)
    """From the caller's last word to the final transcript."""
    llm_first_token: timedelta = timedelta(milliseconds=375)
    """From the request to the first streamed token."""
    llm_token: timedelta = timedelta(milliseconds=17)
    """Between two streamed tokens: about 60 tokens a second."""
    tts_first_byte: timedelta = timedelta(milliseconds=100)
    """From the text to the first audio."""


@dataclass(frozen=True)
class Spread:
    """How one delay differs from connection to connection; its median is in ``Delays``."""

    sigma: float = 0.0
    """Standard deviation of its logarithm; 0: always the median."""
    tail_chance: float = 0.0
    """The part of all connections that take ``tail`` instead."""
    tail: timedelta = timedelta(0)


@dataclass(frozen=True)
class SandboxOptions:
    """Everything one sandbox server needs; picklable, reads no environment."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the system choose a free port."""
    api_key: str = "sandbox"
    """The one key that all three providers accept; any other is answered with 401."""
    ears: Literal["grammar", "script"] = "grammar"
    """``grammar``: pocketsphinx; ``script``: they know the recorded lines only, at next to no cost."""
    delays: Delays = field(default_factory=Delays)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    """Of the delays that are not the same each time, by name; see ``chance``."""
    seed: int = 0
    """Of all that is drawn."""
    faults: tuple[Fault, ...] = ()
    realtime_session: timedelta = timedelta(minutes=60)
    """How long one Realtime session may last; OpenAI's own limit."""
