"""Music for a caller who waits, made here so that nobody's licence comes with it. Pure."""

from functools import cache

import numpy as np

from trunkline.agent.audio import FRAME
from trunkline.agent.line import LINE_RATE_HZ

LEVEL_DBFS = -20.0
"""Root mean square: as loud as speech on a telephone line (ITU-T P.56 active levels)."""

_BEAT_S = 0.5
_CHORDS_HZ = (
    (261.63, 329.63, 392.00, 523.25),
    (220.00, 329.63, 440.00, 523.25),
    (174.61, 349.23, 440.00, 523.25),
    (196.00, 293.66, 392.00, 493.88),
)
"""C, A minor, F, G: each broken up and down over two seconds. All above 170 Hz, where telephones hear."""


@cache
def hold_music() -> tuple[bytes, ...]:
    """Eight seconds in frames of 20 ms (PCM16, LINE_RATE_HZ), to be played round and round.

    The last notes ring on into the beginning, so the seam cannot be heard.
    """
    beat = int(_BEAT_S * LINE_RATE_HZ)
    total = beat * 4 * len(_CHORDS_HZ)
    sound = np.zeros(total)
    ringing = np.arange(int(1.6 * LINE_RATE_HZ)) / LINE_RATE_HZ
    # A soft onset of 12 ms and a slow fade, as of a plucked string.
    shape = np.minimum(ringing / 0.012, 1.0) * np.exp(-2.6 * ringing)
    shape *= np.minimum((ringing[-1] - ringing) / 0.05, 1.0)
    for number, chord in enumerate(_CHORDS_HZ):
        for step, pitch in enumerate((chord[0], chord[1], chord[2], chord[3])):
            note = np.sin(2 * np.pi * pitch * ringing) + 0.25 * np.sin(4 * np.pi * pitch * ringing)
            at = (number * 4 + step) * beat + np.arange(ringing.size)
            np.add.at(sound, at % total, note * shape)
    sound *= 10 ** (LEVEL_DBFS / 20) * 32768 / np.sqrt(np.mean(sound**2))
    pcm = np.clip(sound, -32768, 32767).astype("<i2").tobytes()
    size = FRAME * 2
    return tuple(pcm[at : at + size] for at in range(0, len(pcm), size))
