"""What an examination finds: one line for each thing looked at, with what to do where it is wrong."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

LIMIT = timedelta(seconds=9)
"""No check takes longer; they run side by side, so neither does the whole."""

Group = Literal["settings", "data", "providers", "livekit", "processes", "people", "lines"]

_MARKS = {True: "✓", False: "✗", None: "–"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``ok`` None: it could not be, or can be neither right nor wrong."""

    group: Group
    what: str
    ok: bool | None
    says: str
    fix: str | None = None
    """What to do; only where it is wrong or could not be looked at."""

    @classmethod
    def wrong(cls, group: Group, what: str, error: Exception) -> "Finding":
        """Of one of our errors, whose message is what happened, a semicolon, and what to do."""
        says, _, fix = str(error).partition("; ")
        return cls(group, what, False, says, fix or None)


Findings = Sequence[Finding]


@dataclass(frozen=True)
class Report:
    """All findings, in the order of the way to a call."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what could not be looked at does not count."""
        return all(one.ok is not False for one in self.findings)

    @property
    def data(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"ok": self.ok, "findings": [asdict(one) for one in self.findings]}

    @property
    def lines(self) -> list[str]:
        """For people."""
        lines: list[str] = []
        group = None
        for one in self.findings:
            if one.group != group:
                lines.append(one.group)
                group = one.group
            lines.append(f"  {_MARKS[one.ok]} {one.what}: {one.says}")
            if one.fix:
                lines.append(f"      → {one.fix}")
        wrong = sum(one.ok is False for one in self.findings)
        lines.append(f"{wrong} to mend." if wrong else "Nothing is wrong.")
        return lines


async def bounded(group: Group, what: str, check: Awaitable[Findings]) -> Findings:
    """What *check* finds; when it takes too long, or breaks, that is what is found."""
    try:
        async with asyncio.timeout(LIMIT.total_seconds()):
            return await check
    except TimeoutError:
        return [Finding(group, what, False, f"no answer within {LIMIT.total_seconds():.0f} s")]
    except Exception as error:  # one check that breaks must not hide what the others find
        return [
            Finding(group, what, False, f"could not be looked at: {type(error).__name__}: {error}")
        ]
