"""Silence and the longest time of a call, on a clock that jumps from one timer to the next."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from livekit import rtc

from trunkline.agent.conversation import Conversation
from trunkline.agent.options import AgentOptions, ProviderAccess
from trunkline.calls.lifecycle import EndReason
from trunkline.desk.arrival import Reception
from trunkline.profiles.body import ProfileBody

if TYPE_CHECKING:
    from tests.conftest import Make

NOBODY = Reception("call_1", None, None, None, None, None, (), ())
ACCESS = ProviderAccess("key")
SPEECH_S = 2.0
"""How long the agent speaks, whatever it says."""


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose time stands still while something runs and jumps to the next timer when nothing does."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout:
                    loop.now += timeout
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class Voice:
    """As much of livekit's AgentSession as minding a call touches: it says words and tells its state."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str, bool]] = []
        self.sounds: list[AsyncIterator[rtc.AudioFrame] | None] = []
        self._callbacks: dict[str, Callable[[Any], None]] = {}
        self._last: asyncio.Task[None] | None = None

    def on(self, event: str, callback: Callable[[Any], None]) -> None:
        self._callbacks[event] = callback

    def state(self, who: str, new: str) -> None:
        self._callbacks[f"{who}_state_changed"](type("Event", (), {"new_state": new}))

    def say(
        self,
        words: str,
        *,
        allow_interruptions: bool = True,
        audio: AsyncIterator[rtc.AudioFrame] | None = None,
    ) -> "Handle":
        self.sounds.append(audio)
        now = asyncio.get_running_loop().time()
        self.said.append((round(now, 3), words, allow_interruptions))
        self.state("agent", "speaking")
        self._last = asyncio.create_task(self._play())
        return Handle(self._last)

    async def _play(self) -> None:
        await asyncio.sleep(SPEECH_S)  # pace: the jumping clock's, not ours
        self.state("agent", "listening")


class Handle:
    """A speech."""

    def __init__(self, playing: asyncio.Task[None]) -> None:
        self._playing = playing

    def __await__(self) -> Any:
        return self._playing.__await__()

    async def wait_for_playout(self) -> None:
        await self._playing


class Begun:
    """As much of a line: how long ago the call was answered."""

    def __init__(self, ms: int) -> None:
        self._ms = ms

    def position_ms(self) -> int:
        return self._ms


def play(
    body: ProfileBody,
    mind: Callable[[Conversation], Coroutine[Any, Any, None]],
    *events: tuple[float, Callable[[Conversation, Voice], None]],
    begun_ms: int = 0,
) -> tuple[list[tuple[float, str, bool]], EndReason, float]:
    """What is said and when, how the call ends and when, if *events* happen at their seconds."""

    async def call() -> tuple[list[tuple[float, str, bool]], EndReason, float]:
        voice, loop = Voice(), asyncio.get_running_loop()
        nothing = cast(Any, None)
        talk = Conversation(
            db=nothing, line=cast(Any, Begun(begun_ms)), lease=nothing, reception=NOBODY, body=body,
            options=AgentOptions(ACCESS, ACCESS, ACCESS, hangup_grace=timedelta(seconds=1)),
            scribe=nothing, clock=nothing,
        )  # fmt: skip
        talk.watch(cast(Any, voice))
        for at, happen in events:
            loop.call_at(at, happen, talk, voice)
        minding = asyncio.create_task(mind(talk))
        reason = await talk.over()
        await minding
        return voice.said, reason, round(loop.time(), 3)

    with asyncio.Runner(loop_factory=Jumping) as runner:
        return runner.run(call())


def user(new: str) -> Callable[[Conversation, Voice], None]:
    return lambda talk, voice: voice.state("user", new)


def key(talk: Conversation, voice: Voice) -> None:
    """A key press, to which the agent answers at once."""
    talk.stir()
    voice.say("the answer to a key")


def ladder(make: "Make") -> ProfileBody:
    return make.body(
        limits={"silence_s": 5},
        silence_prompts=["Are you there?", "Hello?"],
        silence_farewell="Then goodbye.",
    )


def test_silence_is_asked_asked_again_and_ended(make: "Make") -> None:
    """Each step waits for the whole silence after the one before; the last words are heard out."""
    said, reason, end = play(ladder(make), Conversation.mind_silence)
    assert said == [
        (5.0, "Are you there?", True),
        (12.0, "Hello?", True),
        (19.0, "Then goodbye.", False),
    ]
    assert (reason, end) == (EndReason.SILENCE, 22.0)


def test_a_prompt_whose_sound_is_there_is_not_made_again(make: "Make") -> None:
    """What another call has said is played; the rest is left to the voice."""
    body, voices = ladder(make), list[Voice]()

    def known(talk: Conversation, voice: Voice) -> None:
        voices.append(voice)
        talk.sound = lambda words: bytes(320) if words == body.silence_prompts[0] else None

    said, _, _ = play(body, Conversation.mind_silence, (0.0, known))
    played = [words for (_, words, _), sound in zip(said, voices[0].sounds, strict=True) if sound]
    assert played == [body.silence_prompts[0]]


def test_a_word_starts_the_ladder_anew(make: "Make") -> None:
    """A caller who answers the first question is asked the first one again, not the second."""
    said, _, _ = play(
        ladder(make), Conversation.mind_silence, (8.0, user("speaking")), (9.0, user("listening"))
    )
    assert [(at, words) for at, words, _ in said] == [
        (5.0, "Are you there?"),
        (14.0, "Are you there?"),
        (21.0, "Hello?"),
        (28.0, "Then goodbye."),
    ]


def test_a_key_starts_the_ladder_anew(make: "Make") -> None:
    """A key is a sign of life as a word is: nobody who presses keys is hung up on for silence."""
    said, reason, _ = play(ladder(make), Conversation.mind_silence, (13.0 + SPEECH_S, key))
    assert [(at, words) for at, words, _ in said] == [
        (5.0, "Are you there?"),
        (12.0, "Hello?"),
        (15.0, "the answer to a key"),
        (22.0, "Are you there?"),
        (29.0, "Hello?"),
        (36.0, "Then goodbye."),
    ]
    assert reason is EndReason.SILENCE


def limited(make: "Make", **limits: int) -> ProfileBody:
    return make.body(
        limits={"max_call_s": 300, **limits}, end_warning="One minute.", farewell="Goodbye."
    )


def test_a_call_that_was_taken_over_lasts_no_longer(make: "Make") -> None:
    """What another agent has talked before counts, and the warning comes at the same distance."""
    said, reason, end = play(limited(make), Conversation.mind_limit, begun_ms=200_000)
    (warned, _, _), (ended, _, _) = said
    assert (warned, ended, reason) == (40.7, 100, EndReason.MAX_DURATION)
    assert end == 100 + SPEECH_S + 1


def test_the_end_is_announced_at_a_pause(make: "Make") -> None:
    """The warning waits until nobody speaks, and then for a short silence; the end is where it was."""
    said, reason, end = play(
        limited(make),
        Conversation.mind_limit,
        (239.0, user("speaking")),
        (250.0, user("listening")),
        (250.5, user("speaking")),  # only drew breath
        (255.0, user("listening")),
    )
    assert said == [(255.7, "One minute.", True), (300.0, "Goodbye.", False)]
    assert (reason, end) == (EndReason.MAX_DURATION, 303.0)


def test_a_caller_who_never_pauses_is_not_cut_in_on_twice(make: "Make") -> None:
    """Without a pause there is no warning; the end comes all the same."""
    said, reason, _ = play(limited(make), Conversation.mind_limit, (100.0, user("speaking")))
    assert said == [(300.0, "Goodbye.", False)]
    assert reason is EndReason.MAX_DURATION


def test_no_warning_where_none_is_wanted(make: "Make") -> None:
    """Zero switches it off, and a call no longer than the warning has none."""
    for body in (limited(make, warn_before_end_s=0), limited(make, warn_before_end_s=300)):
        said, _, _ = play(body, Conversation.mind_limit)
        assert said == [(300.0, "Goodbye.", False)]
