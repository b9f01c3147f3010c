"""Search and filters: the same calls on SQLite and PostgreSQL, for any input."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import query, search, service
from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Spoken, Turn
from trunkline.calls.queries import Cursor
from trunkline.calls.query import Not, Query, Term
from trunkline.calls.words import words
from trunkline.errors import Invalid
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)

SAID: dict[str, Sequence[tuple[str, str]]] = {
    "refund": [("user", "I'd like a refund, please."), ("agent", "One moment please.")],
    "sorry": [("user", "My lost card!"), ("agent", "I am sorry. A refund is on its way.")],
    "apart": [("user", "I lost it."), ("user", "Card, I mean."), ("agent", "Credit or refund?")],
    "accent": [("user", "Der Café-Besuch von MÜLLER kostet 12,50 €"), ("agent", "Verstanden.")],
    "script": [("user", "返金をお願いします"), ("agent", "Возврат принят")],
    "operators": [("user", "this or that and not NEAR the x*y (what)"), ("agent", "AND? Or?")],
    "digits": [("user", "call 4g at 1e5 or 0x1f, a.b@c.de"), ("agent", "[keys 2] hello-world")],
    "quiet": [],
}
"""Name of a call → what was said in it."""


async def say(
    session: AsyncSession, make: "Make", name: str, now: datetime, turns: Sequence[tuple[str, str]]
) -> str:
    call = await make.call(session, room=name, now=now)
    lease = await service.take_lease(session, call.id, now=now)
    await service.answer(session, lease, now=now)
    for at, (role, text) in enumerate(turns):
        await service.save_turn(
            session, lease, turn_id=None, role=role, text=text, started_ms=1000 * at,
            ended_ms=1000 * at + 900, now=now,
        )  # fmt: skip
    await service.end(session, call.id, EndReason.CALLER_HANGUP, now=now + 60 * S)
    return call.id


@pytest.fixture
async def said(db: Database, make: "Make", now: datetime) -> dict[str, str]:
    """Calls of SAID, by id."""
    async with db.work() as session:
        return {
            await say(session, make, name, now + at * 100 * S, turns): name
            for at, (name, turns) in enumerate(SAID.items())
        }


async def found(db: Database, said: dict[str, str], text: str) -> list[str]:
    """What a search finds, newest first."""
    async with db.look() as session:
        page = await search.page(session, Filters(), query.parse(text), limit=50)
    return [said[call.id] for call in page.calls]


def holds(name: str, wanted: Query) -> bool:
    """Whether that call is to be found: what the language means, in as few words as can be."""
    if isinstance(wanted, Not):
        return not holds(name, wanted.part)
    if not isinstance(wanted, Term):
        each = [holds(name, part) for part in wanted.parts]
        return all(each) if isinstance(wanted, query.All) else any(each)
    for role, text in SAID[name]:
        there = [word.key for word in words(text)]
        for at in range(len(there) - len(wanted.words) + 1):
            here = there[at : at + len(wanted.words)]
            last = here[-1].startswith(wanted.words[-1]) if wanted.prefix else True
            exact = tuple(here[:-1] if wanted.prefix else here)
            if wanted.role in (None, role) and last and exact == wanted.words[: len(exact)]:
                return True
    return False


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("refund", "apart sorry refund"),
        ("REFUND", "apart sorry refund"),
        ("refun", ""),  # a word is a whole word
        ("refun*", "apart sorry refund"),  # unless it says that it goes on
        ('"lost card"', "sorry"),  # a phrase is within one turn
        ("lost card", "apart sorry"),
        ("caller:refund", "refund"),
        ("Customer:refund", "refund"),
        ("agent:refund", "apart sorry"),
        ('agent:"one moment"', "refund"),
        ("caller:(refund OR card)", "apart sorry refund"),
        ("refund -sorry", "apart refund"),
        ("refund NOT agent:sorry", "apart refund"),
        ("-refund", "quiet digits operators script accent"),
        ("NOT (refund OR cafe)", "quiet digits operators script"),
        ("moment OR card OR nothing", "apart sorry refund"),
        ("(credit OR moment) refund", "apart refund"),
        ("credit OR moment refund", "apart refund"),
        ("NOT NOT refund OR zzz", "apart sorry refund"),
        ("cafe müller", "accent"),
        ("muller", "accent"),
        ("12,50", "accent"),  # a word with a comma in it is a phrase
        ("返金", "script"),
        ("возврат", "script"),
        ("возвр*", "script"),
        ('"or that" not', "operators"),
        ('"NEAR"', "operators"),
        ("1e5 0x1f", "digits"),
        ("a.b@c.de", "digits"),
        ("hello-world", "digits"),
        ("hello-there", ""),
        ("don't", ""),
    ],
)  # fmt: skip
async def test_what_is_found(db: Database, said: dict[str, str], text: str, names: str) -> None:
    """Words, phrases, speakers, and/or/not: the same calls on both databases."""
    assert await found(db, said, text) == names.split()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x " * 501, "may have 1000 characters"),
        ("a " * 25, "may have 24 words"),
        ("((((((((((a))))))))))", "8 deep"),
        ("(a", "opened and not closed"),
        ("a)", "closed that was not opened"),
        ("OR", "a word is missing beside OR"),
        ("a OR", "a word is missing"),
        ("a AND AND b", "a word is missing beside AND"),
        ("NOT", "a word is missing"),
        ("!!!", "no letter or digit"),
        ('""', "no letter or digit"),
        ("ab*", "3 letters or more"),
        ("caller:agent:x", "a word is missing"),
        (" ", "a word is missing"),
        ("AND OR NOT " * 900, "may have 1000 characters"),  # 10 kB of operators
        ("(" * 1000, "8 deep"),
    ],
)
def test_what_is_no_search(text: str, says: str) -> None:
    """It is told what is wrong, and what to write."""
    with pytest.raises(Invalid, match=re.escape(says)):
        query.parse(text)


PIECES = st.sampled_from(
    ["refund", "lost", "card", "or", "OR", "AND", "NOT", "-", "(", ")", '"', "*", "ref*", "caller:",
     "agent:", "sorry", "12,50", "é", "返金", "'", "\\", "%", "_", ":", "$q$", "\x00", "NEAR", "1e5", " "]
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=st.one_of(
        st.lists(PIECES, max_size=12).map(" ".join),
        st.lists(PIECES, max_size=12).map("".join),
        st.text(max_size=40),
    )
)
@example(text="'; DROP TABLE calls; --")
@example(text='"lost card" OR caller:(ref* -sorry)')
async def test_any_input_is_safe(db: Database, said: dict[str, str], text: str) -> None:
    """Whatever is typed is either explained, or finds on both databases what the language means."""
    try:
        wanted = query.parse(text)
    except Invalid:
        return
    expected = [name for name in reversed(SAID) if holds(name, wanted)]
    assert await found(db, said, text) == expected


async def test_only_what_is_redacted_is_indexed(db: Database, said: dict[str, str]) -> None:
    """The index holds the words of the stored turns, each turn once, and nothing else."""
    async with db.look() as session:
        turns = {row.id: row.text for row in await session.scalars(select(Turn))}
        rows = list(await session.scalars(select(Spoken)))
    assert len(turns) == sum(len(some) for some in SAID.values()) == len(rows)
    for row in rows:
        assert row.words.split() == [word.key for word in words(turns[row.turn_id])]


async def test_a_turn_that_changes_and_one_that_goes(
    db: Database, make: "Make", now: datetime
) -> None:
    """An open turn is not found yet, a changed one by its new words only, a deleted one no more."""

    async def hits(text: str) -> int:
        async with db.look() as session:
            page = await search.page(session, Filters(), query.parse(text), limit=5)
        return len(page.calls)

    async def save(text: str, ended_ms: int | None, turn_id: str | None = None) -> str:
        async with db.work() as session:
            turn = await service.save_turn(
                session, lease, turn_id=turn_id, role="agent", text=text, started_ms=0,
                ended_ms=ended_ms, now=now,
            )  # fmt: skip
        return turn.id

    async with db.work() as session:
        call = await make.call(session)
        lease = await service.take_lease(session, call.id, now=now)
    open_turn = await save("good morning to", None)
    assert await hits("morning") == 0
    await save("good morning to you", 900, open_turn)
    assert (await hits("morning"), await hits('"to you"')) == (1, 1)
    await save("good", 900, open_turn)
    assert (await hits("morning"), await hits("good")) == (0, 1)
    await save("not over", None)
    async with db.work() as session:
        await service.end(session, call.id, EndReason.AGENT_LOST, now=now)
    assert await hits('"not over"') == 1
    async with db.work() as session:
        await session.execute(delete(Turn).where(Turn.call_id == call.id))
    assert await hits("good") == 0
    async with db.look() as session:
        assert await session.scalar(select(func.count(Spoken.id))) == 0


async def test_snippets(db: Database, said: dict[str, str]) -> None:
    """Each call shows where it was said, by whom, with the hits marked and only the asked speaker's."""

    async def shown(text: str) -> dict[str, list[tuple[str, int, str]]]:
        async with db.look() as session:
            some = await search.snippets(session, query.parse(text), list(said))
        return {
            said[call_id]: [
                (
                    one.role,
                    one.started_ms,
                    "".join(f"[{p.text}]" if p.hit else p.text for p in one.pieces),
                )
                for one in each
            ]
            for call_id, each in some.items()
        }

    assert await shown('"lost card" OR agent:refund') == {
        "sorry": [
            ("user", 0, "My [lost card]!"),
            ("agent", 1000, "I am sorry. A [refund] is on its way."),
        ],
        "apart": [("agent", 2000, "Credit or [refund]?")],
    }
    (accent,) = (await shown("cafe -zzz"))["accent"]
    assert accent == ("user", 0, "Der [Café]-Besuch von MÜLLER kostet 12,50 €")
    assert await shown("-refund") == {}


async def test_a_long_turn_is_cut_around_the_hit(db: Database, make: "Make", now: datetime) -> None:
    """A snippet is a line, whole words, with the hit in it."""
    text = "word " * 100 + "needle " + "tail " * 100
    async with db.work() as session:
        call_id = await say(session, make, "long", now, [("user", text)])
    async with db.look() as session:
        some = await search.snippets(session, query.parse("needle"), [call_id])
    line = "".join(piece.text for piece in some[call_id][0].pieces)
    assert "needle" in line
    assert line.startswith("… word")
    assert line.endswith("tail …")
    assert 100 < len(line) < 250


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 2000], ids=["walks", "by index"])
@pytest.mark.parametrize("text", ["word", "word -other", "even", "even OR other", None])
async def test_pages_have_every_call_once(
    db: Database,
    make: "Make",
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    text: str | None,
) -> None:
    """Page after page every call comes once, newest first, however it is found and however few are
    looked at in one go."""
    monkeypatch.setattr(search, "FEW", few)
    monkeypatch.setattr(search, "WALK", 5)
    async with db.work() as session:
        ids = []
        for at in range(23):
            said = [("user", "word even" if at % 2 == 0 else "word other")]
            # Some begin at the same moment: the id decides.
            ids.append(await say(session, make, f"room-{at}", now + (at // 3) * S, said))
    wanted = query.parse(text) if text else None
    expected = {
        None: ids,
        "word": ids,
        "word -other": ids[::2],
        "even": ids[::2],
        "even OR other": ids,
    }[text]
    got: list[str] = []
    before: Cursor | None = None
    for _ in range(30):
        async with db.look() as session:
            page = await search.page(session, Filters(), wanted, before=before, limit=4)
        got += [call.id for call in page.calls]
        before = page.next
        if before is None:
            break
        assert len(page.calls) == 4 or page.searched_back_to
    assert sorted(got) == sorted(expected)
    times = [expected.index(one) // 3 if text in (None, "word") else 0 for one in got]
    assert times == sorted(times, reverse=True)
