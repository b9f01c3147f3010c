"""What a call took of its providers, and what that cost by a table of prices. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

CURRENCY = "USD"


@dataclass(frozen=True)
class Price:
    """What one model costs, in US dollars; what it does not charge for is 0."""

    input: float = 0
    """A million tokens that it is sent."""
    cached: float | None = None
    """A million of them that it knew from before; None: as any other."""
    output: float = 0
    """A million tokens that it answers."""
    characters: float = 0
    """A million characters that it speaks."""
    minute: float = 0
    """A minute of audio that it hears or speaks."""


@dataclass(frozen=True)
class Used:
    """What one model did in one call."""

    part: str
    """stt, llm, tts or realtime."""
    model: str
    """Its provider and name, as prices are given for it."""
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens."""
    output_tokens: int = 0
    characters: int = 0
    audio_ms: int = 0

    def plus(self, **more: int) -> "Used":
        """As much, and *more*."""
        counts = {
            one.name: getattr(self, one.name) + more.get(one.name, 0)
            for one in fields(self)
            if one.name not in ("part", "model")
        }
        return Used(self.part, self.model, **counts)


def cost_micros(used: Used, price: Price) -> int:
    """Millionths of a dollar."""
    cached = price.input if price.cached is None else price.cached
    audio = used.audio_ms / 60_000 * price.minute * 1_000_000
    return round(
        (used.input_tokens - used.cached_tokens) * price.input
        + used.cached_tokens * cached
        + used.output_tokens * price.output
        + used.characters * price.characters
        + audio
    )


@dataclass(frozen=True)
class RateLimit:
    """One of a provider's limits as it told it last: what was left, and when it is whole again."""

    name: str
    """requests or tokens."""
    limit: int
    remaining: int
    reset_s: float


def bill(
    all_used: Iterable[Used],
    prices: Mapping[str, Price],
    limits: Mapping[str, Sequence[RateLimit]] | None = None,
) -> dict[str, Any]:
    """As it is stored: each model's counts and cost, and the sum of what has a price; *limits* by model.

    ``cost_micros`` of a model is None where there is no price for it, and ``complete`` says whether
    every model had one.
    """
    parts = []
    for used in all_used:
        price = prices.get(used.model)
        counts = {one.name: getattr(used, one.name) for one in fields(used)}
        cost = None if price is None else cost_micros(used, price)
        told = [asdict(one) for one in (limits or {}).get(used.model, ())]
        parts.append({**counts, "cost_micros": cost, "rate_limits": told})
    known = [part["cost_micros"] for part in parts if part["cost_micros"] is not None]
    return {
        "parts": parts,
        "cost_micros": sum(known) if known else None,
        "complete": bool(parts) and len(known) == len(parts),
        "currency": CURRENCY,
    }
