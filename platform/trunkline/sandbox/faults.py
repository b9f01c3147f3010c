"""What can be made to go wrong in the sandbox's providers, said in one line; every protocol asks here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

Part = Literal["stt", "llm", "tts", "realtime"]
"""Which provider a fault hits: hearing, thinking, speaking, or one that does all three."""

FaultKind = Literal[
    "401",
    "429",
    "500",
    "503",
    "reset",
    "stall",
    "empty",
    "wrong-rate",
    "bad-json",
    "unknown-tool",
    "no-final",
]
"""A status: the provider's own error of it; reset: the connection breaks; stall: no answer.

empty: an answer with nothing in it (llm, tts); wrong-rate: audio at half the rate that was asked for (tts);
bad-json: a tool call whose arguments are no JSON, unknown-tool: a call of a tool that was never offered
(both llm); no-final: words so far come, and never the final ones (stt).
"""

_ONLY: dict[str, frozenset[str]] = {
    "empty": frozenset({"llm", "tts"}),
    "wrong-rate": frozenset({"tts"}),
    "bad-json": frozenset({"llm"}),
    "unknown-tool": frozenset({"llm"}),
    "no-final": frozenset({"stt"}),
}
"""Kinds that only some parts have."""

STATUSES = ("401", "429", "500", "503")
RETRY_AFTER_S = 1
"""What a 429 says in Retry-After."""

_FORM = re.compile(r"(\w+)(?:/([\w.:-]+|\*))?:([\w-]+)(?:@([1-9]\d*))?(?:%(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    ``turn`` counts the caller's turns of one call from 1: for ``llm`` the number of user messages
    in the request, for ``stt`` the utterance on that connection, for ``tts`` the spoken
    reply (context) on that connection, for ``realtime`` the number of user messages in the
    conversation. None means every time, from the connection on.
    ``model`` spares all other models, so that a fallback can be well.
    """

    part: Part
    kind: FaultKind
    turn: int | None = None
    model: str | None = None
    chance: float = 1.0
    """The part of all connections that it may strike at all; drawn for each, see ``chance``."""

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read ``part:kind@turn`` or ``part/model:kind@turn``, with ``%5`` behind it for five connections in
        a hundred. ValueError says what is allowed."""
        found = _FORM.fullmatch(text)
        if not found or found[1] not in get_args(Part) or found[3] not in get_args(FaultKind):
            raise ValueError(
                f"{text!r} is no fault; write part:kind@turn, part one of "
                f"{', '.join(get_args(Part))}, kind one of {', '.join(get_args(FaultKind))}, "
                "for example llm:500@2"
            )
        parts = _ONLY.get(found[3])
        if parts is not None and found[1] not in parts:
            raise ValueError(
                f"{text!r} is no fault; only {' or '.join(sorted(parts))} has {found[3]}"
            )
        turn = int(found[4]) if found[4] else None
        chance = float(found[5] or 100) / 100
        if not 0 < chance <= 1:
            raise ValueError(f"{text!r} is no fault; its chance is above 0 and at most 100 percent")
        return cls(part=found[1], kind=found[3], turn=turn, model=found[2], chance=chance)  # type: ignore[arg-type]

    def of_first(self, models: Mapping[str, str]) -> "Fault":
        """This fault for *models* (part → model) alone, unless it names one; ``*`` names them all."""
        if self.model == "*":
            return replace(self, model=None)
        return self if self.model else replace(self, model=models.get(self.part))

    def text(self) -> str:
        """As :meth:`parse` reads it."""
        model = f"/{self.model}" if self.model else ""
        turn = f"@{self.turn}" if self.turn else ""
        chance = f"%{self.chance * 100:g}" if self.chance < 1 else ""
        return f"{self.part}{model}:{self.kind}{turn}{chance}"

    def hits(self, part: Part, turn: int, model: str | None = None) -> bool:
        """Whether this fault strikes *part* at *turn* when *model* is asked."""
        return (
            self.part == part
            and (self.turn is None or self.turn == turn)
            and (self.model in (None, "*") or model is None or self.model == model)
        )


def strike(
    faults: Iterable[Fault], part: Part, turn: int, model: str | None = None
) -> Fault | None:
    """The first of *faults* that strikes; turn 0 asks for those that strike every time."""
    return next((fault for fault in faults if fault.hits(part, turn, model)), None)
