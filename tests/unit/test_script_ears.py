"""Ears that know the recorded lines by their loudness."""

from pathlib import Path

import pytest

from trunkline.sandbox.caller import LINES, load_line
from trunkline.sandbox.ears import EarEvent, Final, Interim, SpeechStarted
from trunkline.sandbox.line_faults import Faults, Wire
from trunkline.sandbox.script import FRAME_S, ScriptEars, known

RECORDED = sorted(LINES.rglob("*.wav"))
LEAD_FRAMES = 17


async def listen(path: Path) -> list[EarEvent]:
    """What is heard of a line after some silence, off the ears' own frames by half of one."""
    silence = bytes(len(load_line(str(path))[0]))
    pcm = silence * LEAD_FRAMES + silence[::2] + b"".join(load_line(str(path))) + silence * 20
    stream = await ScriptEars(known()).stream(8000)
    for at in range(0, len(pcm), 800):
        await stream.send(pcm[at : at + 800])
    await stream.end()
    return [event async for event in stream]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_a_line_is_known(path: Path) -> None:
    """Its words are its file's name; interims are their beginning; a noise has none."""
    events = await listen(path)
    finals = [event for event in events if isinstance(event, Final)]
    heard = " ".join(word.text for final in finals for word in final.words)
    if path.stem.startswith("noise_"):
        assert heard == ""
        return
    assert heard == path.stem.replace("_", " ")
    for event in events:
        if isinstance(event, Interim):
            assert heard.startswith(" ".join(word.text for word in event.words))
    began = next(event.at_s for event in events if isinstance(event, SpeechStarted))
    assert LEAD_FRAMES * FRAME_S <= began <= LEAD_FRAMES * FRAME_S + 0.1
    assert finals[0].words[-1].end_s == finals[0].end_s


async def test_a_line_is_known_in_noise() -> None:
    """Noise 20 dB below the voice, above silence, neither begins an utterance nor prolongs one."""
    wire = Wire(Faults(noise_dbfs=-39.3))
    silence = bytes(320)
    voice = load_line("wait_what_are_your_opening_hours.wav")
    stream = await ScriptEars(known()).stream(8000)
    for said in [*[silence] * 200, *voice, *[silence] * 50, *voice, *[silence] * 50]:
        await stream.send(wire.say(said))
    await stream.end()
    finals = [event async for event in stream if isinstance(event, Final)]
    told = [" ".join(word.text for word in final.words) for final in finals if final.words]
    assert told == ["wait what are your opening hours"] * 2


async def test_the_last_word_is_told_before_the_final() -> None:
    """The quiet after a line counts as being behind: most lines are whole in an interim already."""
    whole = 0
    lines = [path for path in RECORDED if not path.stem.startswith("noise_")]
    for path in lines:
        events = await listen(path)
        interims = [event for event in events if isinstance(event, Interim)]
        said = " ".join(word.text for word in interims[-1].words) if interims else ""
        whole += said == path.stem.replace("_", " ")
    assert whole > len(lines) / 2
