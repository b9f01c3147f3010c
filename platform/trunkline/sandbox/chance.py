"""How slow and how broken each connection is, drawn anew for each and the same again for the same seed.

Providers are not equally fast every time: their times are near a lognormal distribution around a median, and
now and then one takes far longer. So a delay is fixed (``375``), spread (``375~0.4``: the median in
milliseconds, and the standard deviation of its logarithm), or spread with a tail (``375~0.4,2%:3000``: two
connections in a hundred take three seconds). A fault with a chance (``llm:stall%5``) strikes five connections
in a hundred.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta

from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from trunkline.sandbox.options import Delays, SandboxOptions, Spread

_FORM = re.compile(
    r"(\w+)=(\d+)(?:~(\d+(?:\.\d+)?))?(?:,(\d+(?:\.\d+)?)%:(\d+))?",
)
_NAMES = tuple(field.name for field in fields(Delays))


@dataclass(frozen=True)
class Delay:
    """One delay as it is written on a command line."""

    name: str
    median: timedelta
    spread: Spread

    @classmethod
    def parse(cls, text: str) -> "Delay":
        """Read ``name=milliseconds``, ``…~sigma``, ``…,percent%:milliseconds``. ValueError says how."""
        found = _FORM.fullmatch(text)
        if not found or found[1] not in _NAMES or float(found[4] or 0) > 100:
            raise ValueError(
                f"{text!r} is no delay; write name=milliseconds, spread name=375~0.4, with a tail "
                f"name=375~0.4,2%:3000; name one of {', '.join(_NAMES)}"
            )
        spread = Spread(
            sigma=float(found[3] or 0),
            tail_chance=float(found[4] or 0) / 100,
            tail=timedelta(milliseconds=int(found[5] or 0)),
        )
        return cls(found[1], timedelta(milliseconds=int(found[2])), spread)


def delays(given: Sequence[str]) -> tuple[Delays, dict[str, Spread]]:
    """What *given* asks for: the medians of all, and the spread of those that have one."""
    read = [Delay.parse(text) for text in given]
    medians = Delays(**{one.name: one.median for one in read})
    return medians, {one.name: one.spread for one in read if one.spread != Spread()}


def drawn(options: SandboxOptions, dice: random.Random) -> SandboxOptions:
    """*options* for one connection: every delay fixed, every fault certain or gone."""
    times = {
        name: _time(getattr(options.delays, name), spread, dice)
        for name, spread in sorted(options.spreads.items())
    }
    # Drawn for all faults alike, so that one more of them changes nothing about the others.
    struck = [(fault, dice.random() < fault.chance) for fault in options.faults]
    return replace(
        options,
        delays=replace(options.delays, **times),
        spreads={},
        faults=tuple(replace(fault, chance=1.0) for fault, strikes in struck if strikes),
    )


def _time(median: timedelta, spread: Spread, dice: random.Random) -> timedelta:
    usual = median * math.exp(dice.gauss(0, spread.sigma))
    return spread.tail if dice.random() < spread.tail_chance else usual


class PerConnection:
    """Routes whose options are drawn for each request and websocket. An ASGI application.

    The nth connection to a path gets the same of the same seed, whatever else is connected.
    """

    def __init__(
        self, make: Callable[[SandboxOptions], Sequence[BaseRoute]], options: SandboxOptions
    ) -> None:
        self._make, self._options = make, options
        self._seen: Counter[str] = Counter()
        certain = all(fault.chance >= 1 for fault in options.faults)
        self._always = Router(make(options)) if certain and not options.spreads else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        router = self._always
        if router is None:
            path = str(scope["path"])
            self._seen[path] += 1
            dice = random.Random(f"{self._options.seed} {path} {self._seen[path]}")
            router = Router(self._make(drawn(self._options, dice)))
        await router(scope, receive, send)
