"""A stereo waveform as two SVG paths, made once at the server."""

from collections.abc import Sequence
from itertools import pairwise

WIDTH, HEIGHT = 1000, 100
_BARS = 250
"""Enough for a wide screen; more would only make the page heavier."""
_QUIETEST = 20
"""Peaks below this are drawn small, so that the noise of an empty line does not look like speech."""


def paths(peaks: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """The outlines of the left channel (upwards from the middle) and of the right one (downwards).

    Peaks are (left, right) from 0 to 100 in equal steps; neighbours are joined by the louder one,
    and the loudest fills its half. The box is WIDTH by HEIGHT.
    """
    if not peaks:
        return "", ""
    bars = min(_BARS, len(peaks))
    edges = [round(i * len(peaks) / bars) for i in range(bars + 1)]
    joined = [
        (max(peak[0] for peak in group), max(peak[1] for peak in group))
        for group in (peaks[a:b] for a, b in pairwise(edges))
    ]
    loudest = max(_QUIETEST, *(max(peak) for peak in joined))
    step = WIDTH / bars
    middle = HEIGHT / 2
    left: list[str] = []
    right: list[str] = []
    for at, (up, down) in enumerate(joined):
        x, wide = at * step + step * 0.15, step * 0.7
        for path, level, sign in ((left, up, -1), (right, down, 1)):
            tall = max(0.8, level / loudest * (middle - 4))
            path.append(f"M{x:.1f} {middle + sign:.0f}h{wide:.1f}v{sign * tall:.1f}h-{wide:.1f}z")
    return "".join(left), "".join(right)
