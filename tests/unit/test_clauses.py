"""The first piece of a reply goes to the voice before its sentence is complete."""

import pytest

from trunkline.agent.clauses import Clauses, first


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("", ""),
        ("Of", ""),
        ("Of course.", ""),  # it may go on: 3.50, example.com
        ("Of course. Let", "Of course."),
        ("Hello, James", "Hello,"),
        ("We are open", ""),  # the word may be longer
        ("We are open Monday", "We are open"),
        ("It is 4 5", ""),  # a number is not cut in two
        ("It is 4 5 and", ""),
        ("Ja, gerne", "Ja,"),
    ],
)
def test_where_the_first_piece_ends(text: str, head: str) -> None:
    """At its punctuation when that comes within two words, else after three whole words."""
    assert text[: first(text)].strip() == head


async def said(pieces: list[str]) -> list[str]:
    stream = Clauses().stream()
    for piece in pieces:
        stream.push_text(piece)
    stream.end_input()
    got = [token.token async for token in stream]
    await stream.aclose()
    return got


async def test_nothing_is_lost_or_said_twice() -> None:
    """The pieces together are the text, whatever way it came in."""
    text = (
        "Of course. Let me go through our plans one by one, and stop me whenever you like. "
        "The first is the basic plan, for 40.50 dollars a month. Which one?"
    )
    for size in (1, 3, 7, len(text)):
        pieces = await said([text[n : n + size] for n in range(0, len(text), size)])
        assert " ".join(pieces) == text
        assert pieces[0] == "Of course."


@pytest.mark.parametrize("text", ["Yes.", "Yes", "Thank you.", "Thank you so", "…"])
async def test_a_short_reply_is_said(text: str) -> None:
    """A reply that never grows to a first piece comes when it is complete."""
    assert await said([text]) == [text]


async def test_a_flush_ends_the_first_piece() -> None:
    """What waits to become a first piece is given out by a flush, before all that follows."""
    stream = Clauses().stream()
    stream.push_text("One moment")
    stream.flush()
    stream.push_text("Here, it is found.")
    stream.end_input()
    assert [token.token async for token in stream] == ["One moment", "Here, it is found."]
    await stream.aclose()
