"""What the agent needs to know from the settings; picklable, imports nothing heavy."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from trunkline.calls.usage import Price
from trunkline.desk.door import House
from trunkline.kit.blobs import BlobOptions
from trunkline.kit.db import DatabaseOptions
from trunkline.kit.livekit import LiveKitOptions


@dataclass(frozen=True)
class ProviderAccess:
    """How to reach one provider. ``base_url`` None means the provider's own public address."""

    api_key: str = field(repr=False)
    base_url: str | None = None


@dataclass(frozen=True)
class AgentOptions:
    """One agent's way to its providers and its patience."""

    deepgram: ProviderAccess
    openai: ProviderAccess
    cartesia: ProviderAccess
    model_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Host, with its port if one is given → the key of a server of one's own or of Azure's."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Provider and model, as ``openai gpt-4.1-mini`` → what it costs."""
    breaker_folder: str = field(
        default_factory=lambda: f"{tempfile.gettempdir()}/trunkline-{os.getpid()}"
    )
    """Where the calls of one worker tell each other which models are out of order."""
    heartbeat: timedelta = timedelta(seconds=2)
    """How often a live call signs that its agent is alive."""
    greeting_timeout: timedelta = timedelta(seconds=3)
    """How long the greeting may take to be synthesised while the line still rings."""
    hangup_grace: timedelta = timedelta(milliseconds=300)
    """Between the last syllable and the hang-up: the way from us to the caller's ear."""
    tool_grace: timedelta = timedelta(seconds=10)
    """How long a tool that runs when the call ends may go on, so that nothing is lost."""
    key_gap: timedelta = timedelta(milliseconds=1200)
    """Keys pressed closer together than this are one input."""
    word_after: timedelta | None = timedelta(milliseconds=1050)
    """A caller whose answer is late is told "One moment." after so much quiet, though nothing has failed:
    heard 1.45 s after they ended. None: only when something has failed."""
    filler_after: timedelta | None = timedelta(milliseconds=1200)
    """A caller who has waited for a tool in silence for so long is told that it takes a moment, once; where
    its sound is not kept the voice needs 200 ms more, and from 1.5 s on people ask whether anybody is
    there. None: never."""
    hold_after: timedelta = timedelta(seconds=4)
    """A caller who has waited for a tool in silence for so long hears music until it is done."""
    house: House = field(default_factory=House)
    """What holds for every number here."""
    tool_delays: Mapping[str, timedelta] = field(default_factory=dict)
    """Tool name → extra wait before it writes, to try out slow systems. Empty in production."""


@dataclass(frozen=True)
class WorkerOptions:
    """What ``trunkline worker`` needs; goes to its job processes, which read no environment."""

    livekit: LiveKitOptions
    database: DatabaseOptions
    blobs: BlobOptions
    agent: AgentOptions
    capacity: int = 6
    """Calls that this worker takes at once. Above zero."""
    overflow: int = 24
    """Calls beyond it of which the worker still sees to it that ``trunkline-rescue`` answers them."""
    warm: int | None = None
    """Processes that wait for a call with everything loaded; None: as many as calls still fit, so that none
    has to be made while calls come in. A call that finds none is answered by the keypad menu."""
    host: str = "127.0.0.1"
    port: int = 8422
    """Where /health and /ready answer; 0 takes any free port."""
    drain: timedelta = timedelta(minutes=30)
    """How long calls may go on once the worker is told to stop."""
    log: Literal["json", "console"] = "console"
    log_level: str = "info"

    @property
    def idle(self) -> int:
        """Processes that wait for a call when none is on."""
        return self.capacity if self.warm is None else min(self.warm, self.capacity)
