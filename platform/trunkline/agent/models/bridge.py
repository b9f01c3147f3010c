"""A word that somebody is there, when a provider's failure makes the caller wait for the answer. Pure."""

AFTER_S = 1.25
"""Quiet after which the words are due. The detector of voice calls it quiet some 300 ms after the last sound,
and the words are heard some 250 ms after they are due: the caller waits 1.8 s."""


class Bridge:
    """Knows how long the caller has waited since they ended, and whether something went wrong meanwhile.

    Only then is anything due: an answer that takes long in good health is the profile's to mend, and a filler
    before each of them would be tiresome.
    """

    def __init__(self, words: str) -> None:
        self._words = words
        self._quiet_since_s: float | None = None
        self._trouble = False

    def caller(self, now_s: float, *, speaks: bool) -> None:
        """The caller has begun, or ceased, to speak at *now_s* of the loop's clock."""
        self._quiet_since_s = None if speaks else now_s

    def agent(self) -> None:
        """The agent is heard: nobody waits any more."""
        self._quiet_since_s, self._trouble = None, False

    def trouble(self) -> None:
        """Somebody failed, or is late."""
        self._trouble = True

    def take(self, now_s: float) -> str | None:
        """The words, if they are due now; once for each wait."""
        since_s = self._quiet_since_s
        if not self._trouble or since_s is None:
            return None
        if now_s - since_s < AFTER_S:
            return None
        self._quiet_since_s = None
        return self._words
