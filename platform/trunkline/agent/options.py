"""What the agent needs to know from the settings; picklable, imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


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
    tool_delays: Mapping[str, timedelta] = field(default_factory=dict)
    """Tool name → extra wait before it writes, to try out slow systems. Empty in production."""
