"""What the sandbox's providers are told at start: address, key, how slow and how broken they are."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

Part = Literal["stt", "llm", "tts"]
"""Which provider a fault hits: hearing, thinking or speaking."""

FaultKind = Literal["401", "429", "500", "reset", "stall"]
"""401/429/500: the provider's own error of that status; reset: the connection breaks; stall: no answer."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    ``turn`` counts the caller's turns of one call from 1: for ``llm`` the number of user messages
    in the request, for ``stt`` the utterance on that connection, for ``tts`` the spoken
    reply (context) on that connection. None means every time, from the connection on.
    """

    part: Part
    kind: FaultKind
    turn: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read ``part:kind@turn``, as in ``llm:500@2`` or ``stt:401``. ValueError says what is allowed."""
        found = re.fullmatch(r"(\w+):(\w+)(?:@([1-9]\d*))?", text)
        if not found or found[1] not in get_args(Part) or found[2] not in get_args(FaultKind):
            raise ValueError(
                f"{text!r} is no fault; write part:kind@turn, part one of "
                f"{', '.join(get_args(Part))}, kind one of {', '.join(get_args(FaultKind))}, "
                "for example llm:500@2"
            )
        turn = int(found[3]) if found[3] else None
        return cls(part=found[1], kind=found[2], turn=turn)  # type: ignore[arg-type]

    def hits(self, part: Part, turn: int) -> bool:
        """Whether this fault strikes *part* at *turn*."""
        return self.part == part and (self.turn is None or self.turn == turn)


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
class SandboxOptions:
    """Everything one sandbox server needs; picklable, reads no environment."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the system choose a free port."""
    api_key: str = "sandbox"
    """The one key that all three providers accept; any other is answered with 401."""
    delays: Delays = field(default_factory=Delays)
    faults: tuple[Fault, ...] = ()
