"""The reply's text on its way to the voice: its first clause at once, then sentence by sentence.

livekit-agents' tokenizer waits for a whole sentence of at least 20 characters, which at a model's 60 tokens
a second is 150 to 300 ms of silence that the caller hears. A voice that goes on within one context (as
Cartesia's "continuations" do) speaks a clause no worse than a sentence.
"""

import asyncio
import re

from livekit.agents.tokenize import SentenceStream, SentenceTokenizer, TokenData, blingfire

WORDS = 3
"""A first piece without punctuation: so many whole words. They are spoken in about 0.9 s, which is what
the next piece has to arrive."""

_CLAUSE = re.compile(r"^\s*(?:\S+\s+)?\S*\w[,;:.!?…،。、！？—–](?=\s)")
_BEGINNING = re.compile(rf"^\s*(?:\S+\s+){{{WORDS}}}(?=\S)")


def first(text: str) -> int:
    """Where the first piece of *text*, which grows, ends; 0 while it is too short to be spoken.

    A clause of one or two words ("Of course.") ends at its punctuation, a longer beginning after
    ``WORDS`` words; a number is not cut in two.
    """
    if found := _CLAUSE.match(text):
        return found.end()
    if (found := _BEGINNING.match(text)) and not _in_number(text, found.end()):
        return found.end()
    return 0


def _in_number(text: str, cut: int) -> bool:
    return bool(re.search(r"\d\s*$", text[:cut])) and text[cut : cut + 1].isdigit()


class Clauses(SentenceTokenizer):
    """Gives the first piece of a reply out early; the rest as *rest* does."""

    def __init__(self, rest: SentenceTokenizer | None = None) -> None:
        self._rest = rest or blingfire.SentenceTokenizer()

    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        cut = first(text)
        head = [text[:cut].strip()] if cut else []
        return head + self._rest.tokenize(text[cut:], language=language)

    def stream(self, *, language: str | None = None) -> SentenceStream:
        return _Stream(self._rest.stream(language=language))


class _Stream(SentenceStream):
    def __init__(self, rest: SentenceStream) -> None:
        super().__init__()
        self._rest = rest
        self._head: str | None = ""
        """What is waiting to be a first piece; None once there was one."""
        self._passing = asyncio.create_task(self._pass_on(), name="clauses")

    def push_text(self, text: str) -> None:
        self._check_not_closed()
        if self._head is None:
            self._rest.push_text(text)
            return
        self._head += text
        if cut := first(self._head):
            head, tail = self._head[:cut].strip(), self._head[cut:]
            self._head = None
            self._event_ch.send_nowait(TokenData(token=head))
            self._rest.push_text(tail)

    def flush(self) -> None:
        self._check_not_closed()
        self._give_up_head()
        self._rest.flush()

    def end_input(self) -> None:
        self._check_not_closed()
        self._give_up_head()
        self._rest.end_input()

    async def aclose(self) -> None:
        await self._rest.aclose()
        self._passing.cancel()
        await asyncio.wait([self._passing])
        self._do_close()

    def _give_up_head(self) -> None:
        """What never grew to a first piece is a sentence."""
        if self._head:
            self._rest.push_text(self._head)
        self._head = None

    async def _pass_on(self) -> None:
        async for token in self._rest:
            self._event_ch.send_nowait(token)
        self._do_close()
