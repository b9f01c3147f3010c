"""Record the caller lines of the demo and of the tests: ``python make_lines.py``, once.

Needs Debian's ``flite`` and ``sox``. Each line becomes ``<words joined by _>.wav`` beside this file:
mono, 16-bit PCM, 8 kHz, nothing outside the telephone band (300 to 3400 Hz), peak at -6 dBFS, 60 ms of
silence at either end. The same programs give the same bytes again, so a change shows in the diff.

One voice per simulated caller: of flite's three clearest ``slt`` and ``rms`` fit the ears' model best.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

LINES = {
    "slt": (
        "where does my order stand",
        "yes please go ahead with the bigger plan",
        "no thank you goodbye",
        "what plans do you have",
        "wait what are your opening hours",
        "thank you goodbye",
        "hello",
        # Outside every grammar: what the ears must not mistake for a sentence they know.
        "the quick brown fox jumps over the lazy dog",
    ),
    "rms": (
        "i would like to leave a message",
        "my name is peter novak",
        "my internet has been down since monday",
        "yes please call me back tomorrow",
        "no that is all goodbye",
        "please call me back tomorrow",
        "please state your name and why you are calling",
    ),
}

ASIDES = ("uh huh", "okay", "yeah right")
"""What is said to show that one listens; in ``asides/``, by ``slt``."""

NOISES = {
    "noise_cough": (
        "synth",
        "0.42",
        "pinknoise",
        "band",
        "800",
        "900",
        "fade",
        "l",
        "0.02",
        "0.42",
        "0.05",
    ),
    "noise_keyboard": ("synth", "0.02", "whitenoise", "pad", "0", "0.11", "repeat", "6"),
}
"""What is not speech: sox's effects for each; in ``asides/``."""

_TRIM = ("silence", "1", "0.005", "-46d", "reverse")


def record(text: str, voice: str, into: Path) -> None:
    """Speak *text* with flite's *voice* into the WAV *into*. CalledProcessError if a program fails."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = f"{folder}/spoken.wav"
        run = ["flite", "-voice", voice, "-t", text, "-o", spoken]
        subprocess.run(run, check=True, timeout=60)  # noqa: S603
        shape = ["sox", "-D", spoken, "-r", "8000", "-c", "1", "-b", "16", str(into)]
        band = ["sinc", "300-3400", "norm", "-6", *_TRIM, *_TRIM, "pad", "0.06", "0.06"]
        subprocess.run([*shape, *band], check=True, timeout=60)  # noqa: S603


def main() -> None:
    """Record all lines."""
    folder = Path(__file__).parent
    for voice, texts in LINES.items():
        for text in texts:
            path = folder / f"{text.replace(' ', '_')}.wav"
            record(text, voice, path)
            sys.stdout.write(f"{path.name}\n")
    asides = folder / "asides"
    for text in ASIDES:
        record(text, "slt", asides / f"{text.replace(' ', '_')}.wav")
    for name, effects in NOISES.items():
        shape = ["sox", "-n", "-r", "8000", "-c", "1", "-b", "16", f"{asides}/{name}.wav"]
        subprocess.run([*shape, *effects, "norm", "-6"], check=True, timeout=60)  # noqa: S603


if __name__ == "__main__":
    main()
