"""Who has answered a call that we placed: told from sound alone, and from words when there are any."""

import numpy as np
import pytest

from trunkline.agent.amd import AFTER_GREETING_MS, FRAME_MS, PAUSE_MS, Listener, Who
from trunkline.agent.outbound import outcome
from trunkline.calls.lifecycle import EndReason

RATE_HZ = 8000


def speech(ms: int) -> np.ndarray:
    """A voice: harmonics of a gliding 120 Hz, as loud as on a telephone."""
    time = np.arange(RATE_HZ * ms // 1000) / RATE_HZ
    glide = 2 * np.pi * (120 * time + 15 * np.sin(2 * np.pi * 1.5 * time))
    return 1500 * sum((np.sin(k * glide) / k for k in range(1, 12)), np.zeros_like(time))


def tone(ms: int, hz: float = 1000.0) -> np.ndarray:
    return 6000 * np.sin(2 * np.pi * hz * np.arange(RATE_HZ * ms // 1000) / RATE_HZ)


def quiet(ms: int) -> np.ndarray:
    return np.zeros(RATE_HZ * ms // 1000)


def listen(
    *sounds: np.ndarray, words: str = "", language: str = "en"
) -> tuple[Listener, int | None]:
    """Play *sounds*; the words come with the first. Returns when it was clear who it is, in ms."""
    listener, known = Listener(language), None
    pcm = np.concatenate(sounds).astype("<i2")
    step = RATE_HZ * FRAME_MS // 1000
    listener.read(words)
    for at in range(0, len(pcm) - step + 1, step):
        listener.hear(pcm[at : at + step].tobytes())
        if known is None and listener.who is not None:
            known = listener.position_ms
    return listener, known


@pytest.mark.parametrize(
    ("sounds", "words", "who"),
    [
        ((quiet(300), speech(600), quiet(700)), "", Who.PERSON),
        ((quiet(300), speech(600), quiet(700)), "hello", Who.PERSON),
        ((quiet(2600),), "", Who.PERSON),  # waits for us to speak
        ((speech(4000), quiet(1600)), "", Who.MACHINE),
        ((speech(4000), quiet(1100)), "", None),  # the words may be late
        ((speech(4000), quiet(1100)), "this is dana i am out this week", Who.MACHINE),
        ((speech(4000), quiet(1100)), "harbor fiber dana speaking how may i help you", Who.PERSON),
        ((speech(1000), quiet(200)), "please leave a message", Who.MACHINE),
        ((speech(3000), tone(400), quiet(100)), "", Who.MACHINE),
        ((speech(2900), quiet(600)), "please state your name and why you are calling", Who.SCREENING),
        ((speech(2000), quiet(300)), "", None),
        ((speech(6000),), "", None),  # goes on
    ],
    ids=[
        "hello", "hello-words", "silent", "long", "late", "talk", "firm", "words", "beep", "screening",
        "pause", "on",
    ],
)  # fmt: skip
def test_who_it_is(sounds: tuple[np.ndarray, ...], words: str, who: Who | None) -> None:
    """A person says little and waits; a machine talks on, says so, or beeps."""
    assert listen(*sounds, words=words)[0].who == who


@pytest.mark.parametrize(
    ("language", "words", "who"),
    [
        ("de", "Hinterlassen Sie eine Nachricht nach dem Ton", Who.MACHINE),
        ("de", "Bitte nennen Sie Ihren Namen und den Grund Ihres Anrufs", Who.SCREENING),
        ("de", "Hafen Glasfaser, wie kann ich helfen", Who.PERSON),
        ("es", "Diga su nombre y el motivo de su llamada", Who.SCREENING),
        ("fr", "Vous êtes bien chez Dupont, laissez un message", Who.MACHINE),
        ("fr", "Dupont et fils, puis-je vous aider", Who.PERSON),
        ("it", "Dica il suo nome e il motivo della chiamata", Who.SCREENING),
        ("pt", "Deixe o seu recado após o sinal", Who.MACHINE),
        ("nl", "Zeg uw naam en de reden van uw gesprek", Who.SCREENING),
    ],
)
def test_who_it_is_in_other_languages(language: str, words: str, who: Who) -> None:
    """Words decide in each language that there are phrases in."""
    assert listen(speech(3200), quiet(1100), words=words, language=language)[0].who == who


def test_a_person_is_known_at_once() -> None:
    """Half a second after a "hello" we may speak."""
    _, known = listen(quiet(400), speech(600), quiet(1500))
    assert known == 1000 + PAUSE_MS


@pytest.mark.parametrize("hz", [440.0, 850.0, 1000.0, 1400.0, 2000.0])
def test_the_beep_is_over(hz: float) -> None:
    """A message begins when the beep has ended, whatever its pitch; speech is no beep."""
    greeting = (speech(3000), quiet(300))
    assert not listen(*greeting, tone(300, hz))[0].recording
    assert listen(*greeting, tone(300, hz), quiet(40))[0].recording
    assert not listen(speech(8000), quiet(200))[0].beeped


def test_no_beep() -> None:
    """A machine without a beep records once its greeting has been over for a while."""
    assert not listen(speech(3000), quiet(AFTER_GREETING_MS - 100))[0].recording
    assert listen(speech(3000), quiet(AFTER_GREETING_MS))[0].recording


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (486, EndReason.BUSY),
        (600, EndReason.BUSY),
        (603, EndReason.REJECTED),
        (607, EndReason.REJECTED),  # unwanted, RFC 8197
        (480, EndReason.NO_ANSWER),
        (408, EndReason.NO_ANSWER),
        (487, EndReason.NO_ANSWER),
        (404, EndReason.INVALID_NUMBER),
        (484, EndReason.INVALID_NUMBER),
        (604, EndReason.INVALID_NUMBER),
        (403, EndReason.TRUNK_ERROR),
        (500, EndReason.TRUNK_ERROR),
        (503, EndReason.TRUNK_ERROR),
        (None, EndReason.TRUNK_ERROR),
    ],
)
def test_what_a_status_says(status: int | None, reason: EndReason) -> None:
    """The final SIP status tells busy from declined, unanswered from unknown, and faults of the trunk."""
    assert outcome(status) == reason
