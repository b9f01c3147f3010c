"""A transcript with the tool runs in their place. Pure; the page and every export read it here."""

from collections.abc import Iterable, Sequence

from trunkline.calls.models import ToolRun, Turn

Entry = Turn | ToolRun


def merge(turns: Sequence[Turn], runs: Sequence[ToolRun]) -> list[Entry]:
    """Turns and tool runs in the order in which they began.

    A run that does not know its time stands right after the turn it belongs to, or at the
    end. At the same millisecond the turn comes first.
    """
    began = {turn.id: turn.started_ms for turn in turns}
    end = max(began.values(), default=0)

    def place(entry: Entry) -> tuple[int, int, int]:
        if isinstance(entry, Turn):
            return entry.started_ms, 0, entry.seq
        at = entry.offset_ms
        if at is None:
            at = began.get(entry.turn_id or "", end)
        return at, 1, entry.seq

    return sorted([*turns, *runs], key=place)


def as_text(entries: Iterable[Entry]) -> str:
    """One line per entry: when it began, who, and what was said or done."""
    return "".join(f"{_line(entry)}\n" for entry in entries)


def clock(ms: int) -> str:
    """Milliseconds from the answer as people read them, ``0:07`` or ``1:02:07``."""
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(entry: Entry) -> str:
    if isinstance(entry, Turn):
        who = {"user": "Caller", "agent": "Agent"}[entry.role]
        cut = " (interrupted)" if entry.interrupted else ""
        return f"{clock(entry.started_ms)} {who}: {entry.text}{cut}"
    how = entry.error if entry.state == "error" else entry.state
    when = "" if entry.offset_ms is None else f"{clock(entry.offset_ms)} "
    return f"{when}[{entry.name}: {how}]"
