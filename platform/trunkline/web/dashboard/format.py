"""Values as people read them, in the viewer's language; each is a filter of the templates."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from babel.dates import format_date, format_skeleton
from babel.numbers import format_decimal
from markupsafe import Markup, escape

from trunkline.calls import transcript
from trunkline.kit.money import Money
from trunkline.kit.phone import PhoneNumber
from trunkline.web.dashboard import language, words
from trunkline.web.dashboard.language import Language, _

_KEYS = re.compile(r"\[keys ([0-9*#A-D ]+)\]")


def duration(ms: int | None) -> str:
    """``3 m 40 s``; a dash for None."""
    if ms is None:
        return "–"
    seconds = max(0, round(ms / 1000))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return _("%(hours)s h %(minutes)s m", hours=hours, minutes=minutes)
    if minutes:
        return _("%(minutes)s m %(seconds)s s", minutes=minutes, seconds=seconds)
    return _("%(seconds)s s", seconds=seconds)


def clock(ms: int | None) -> str:
    """A place in a recording: ``1:23``, ``1:02:03``; a dash for None."""
    return "–" if ms is None else transcript.clock(max(0, ms))


def seconds(ms: int | None) -> str:
    """For a URL, ``?t=83.2``; to a tenth."""
    return f"{max(0, ms or 0) / 1000:.1f}".removesuffix(".0")


def millis(ms: int | None) -> str:
    """``38 ms``, ``1.2 s``; a dash for None."""
    if ms is None:
        return "–"
    if ms < 1000:
        return _("%(milliseconds)s ms", milliseconds=ms)
    return _("%(seconds)s s", seconds=decimal(ms / 1000, "0.0"))


def decimal(number: float | Decimal, pattern: str = "#,##0.###") -> str:
    """``1,234.5``; *pattern* says how many digits (Unicode TR35, number patterns)."""
    return format_decimal(number, pattern, language.current().locale)


def whole(number: int) -> str:
    """``1,234``."""
    return str(number) if -1000 < number < 1000 else decimal(number, "#,##0")


_DAYS = {"en": ("d MMM", "d MMM y")}
"""Language → patterns of a day without and with its year, where those of its locale are not wanted: the
English of these pages writes the day first."""


@lru_cache(maxsize=1024)
def _day(spoken: Language, day: date, year: bool) -> str:
    """``15 Jan 2026``."""
    if patterns := _DAYS.get(spoken.tag):
        return format_date(day, patterns[year], spoken.locale)
    return format_skeleton("yMMMd" if year else "MMMd", day, locale=spoken.locale)


@lru_cache(maxsize=8192)
def _time(spoken: Language, at: tuple[int, int, int], seconds: bool) -> str:
    """``09:30``."""
    on = datetime(2000, 1, 1, *at, tzinfo=UTC)
    return format_skeleton("Hms" if seconds else "Hm", on, tzinfo=UTC, locale=spoken.locale)


def moment(at: datetime, style: str = "short") -> Markup:
    """A ``<time>`` in UTC; the script shows it in the viewer's zone. *style*: short, full, day or time."""
    return _moment(language.current(), at, style)


@lru_cache(maxsize=8192)
def _moment(spoken: Language, at: datetime, style: str) -> Markup:
    utc = at.astimezone(UTC)
    exact = _(
        "%(day)s, %(time)s UTC",
        day=_day(spoken, utc.date(), True),
        time=_time(spoken, (utc.hour, utc.minute, utc.second), True),
    )
    text = exact
    if style != "full":
        text = _(
            "%(day)s %(time)s UTC",
            day=_day(spoken, utc.date(), False),
            time=_time(spoken, (utc.hour, utc.minute, 0), False),
        )
    iso = utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" title="{}" data-style="{}">{}</time>').format(
        iso, exact, style, text
    )


def number(e164: str | None, beside: str | None = None) -> str:
    """A telephone number as people in the country of *beside* write it.

    That is the national form when both are of one country, otherwise the international one.
    """
    return _("Hidden number") if e164 is None else _number(e164, beside)


@lru_cache(
    maxsize=4096
)  # a list has a hundred of them, mostly the same, and each takes half a millisecond
def _number(e164: str, beside: str | None) -> str:
    try:
        read = PhoneNumber(e164)
        home = PhoneNumber(beside).international.split(" ")[0] if beside else None
        same = read.international.split(" ")[0] == home
        return read.national if same else read.international
    except ValueError:
        return e164


def value(thing: Any) -> str:
    """A field's value in a line of text."""
    if thing is None or thing == "" or thing == []:
        return _("empty")
    if isinstance(thing, bool):
        return _("yes") if thing else _("no")
    if isinstance(thing, list) and all(isinstance(item, str) for item in thing):
        return ", ".join(thing)
    if isinstance(thing, dict) and set(thing) == {"minor", "currency"}:
        return worth((thing["minor"], thing["currency"]))
    return thing if isinstance(thing, str) else json.dumps(thing, ensure_ascii=False)


def worth(sum_: tuple[int, str]) -> str:
    """An amount as (minor units, currency) in words."""
    money = Money(*sum_)
    digits = money.digits
    amount = Decimal(money.minor).scaleb(-digits)
    pattern = f"#,##0.{'0' * digits}" if digits else "#,##0"
    return f"{decimal(amount, pattern)} {money.currency}"


def pretty(thing: Any) -> str:
    """JSON for people to read."""
    return json.dumps(thing, ensure_ascii=False, indent=2)


def made(after: Any) -> list[tuple[str, str]]:
    """What a thing was made with, as (name, value): what is empty or an id is left out."""
    facts = dict(after) if isinstance(after, dict) else {}
    minor, currency = facts.pop("amount_minor", None), facts.pop("currency", None)
    if minor is not None and currency:
        facts["amount"] = {"minor": minor, "currency": currency}
    if facts.get("phones"):
        facts["phones"] = [number(phone) for phone in facts["phones"]]
    return [
        (plain(name), value(thing))
        for name, thing in facts.items()
        if thing not in (None, "", [], False) and not name.endswith("_id")
    ]


def plain(name: str) -> str:
    """``do_not_call`` as ``Do not call``, translated where it is a name of ours."""
    known = words.NAMES.get(name)
    return _(known) if known else name.replace("_", " ").replace(".", " ").capitalize()


def speech(text: str) -> Markup:
    """What was said; pressed keys stand out as keys."""

    def keys(found: re.Match[str]) -> str:
        pressed = " ".join(f"<kbd>{key}</kbd>" for key in found[1] if key != " ")
        told = escape(_("Pressed %(keys)s")) % {"keys": Markup(pressed)}  # noqa: S704
        return f"<span class='keys'>{told}</span>"

    # Only the pattern's own characters, none of which HTML knows, reach the markup.
    return Markup(_KEYS.sub(keys, str(escape(text))))  # noqa: S704


def ticks(text: str) -> Markup:
    """Words between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def host(url: str) -> str:
    """The host of an address; the rest of it may be secret."""
    return urlsplit(url).hostname or _("an address")


def share(ms: int, whole_ms: int | None) -> float:
    """Where *ms* lies, from 0 to 1000, on a scale of *whole_ms*."""
    return round(1000 * min(1.0, max(0.0, ms / whole_ms)), 1) if whole_ms else 0.0


def shares(latency: dict[str, Any] | None) -> list[tuple[str, int, float, float]]:
    """The parts of a reply's time as (name, milliseconds, from, width), the latter two of 100.

    Both ``stt`` and ``end_of_turn`` run from the end of speech, so the wait for the end of the turn
    is what the latter has more.
    """
    given = latency or {}
    stt, ended = given.get("stt"), given.get("end_of_turn")
    parts = {
        "stt": stt,
        "endpointing": None if ended is None else max(0, ended - (stt or 0)),
        "llm": given.get("llm_first_token"),
        "tts": given.get("tts_first_byte"),
    }
    known = [(name, ms) for name, ms in parts.items() if ms is not None]
    whole = max(sum(ms for _, ms in known), 1)
    found, at = [], 0.0
    for name, ms in known:
        found.append((name, ms, round(at, 2), round(100 * ms / whole, 2)))
        at += 100 * ms / whole
    return found


_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"))
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("Linux", "Linux"),
)


def browser(agent: str | None) -> str:
    """``Chrome on Linux``, as near as a User-Agent tells; browsers name others in it, the true one first."""
    text = agent or ""
    safari = "Safari" if "Safari/" in text else _("Unknown browser")
    name = next((name for mark, name in _BROWSERS if mark in text), safari)
    system = next((system for mark, system in _SYSTEMS if mark in text), None)
    return _("%(browser)s on %(system)s", browser=name, system=system) if system else name


FILTERS = {
    function.__name__: function
    for function in (
        duration,
        clock,
        seconds,
        millis,
        decimal,
        whole,
        moment,
        number,
        value,
        worth,
        made,
        pretty,
        plain,
        speech,
        ticks,
        host,
        share,
        shares,
        browser,
    )
}
"""Name in the templates → function."""
