"""A word that somebody is there, when the caller has waited for an answer as long as may be. Pure."""

AFTER_S = 0.95
"""Quiet after which the words are due where something went wrong. The detector of voice calls it quiet
some 280 ms after the last sound, and the way through a room takes 110 ms: the caller waits 1.35 s."""


class Bridge:
    """Knows how long the caller has waited since they ended, and whether something went wrong meanwhile.

    It is the caller's wait that counts, from their last sound: whatever the end of the turn, its words and
    the tools have taken of it is not left for the model.
    """

    def __init__(self, words: str, latest_s: float | None = None) -> None:
        """*latest_s*: quiet after which *words* are due in good health too; None: never."""
        self._words, self._latest_s = words, latest_s
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

    @property
    def due_s(self) -> float | None:
        """When the words are due if nothing else happens; None while nobody waits."""
        after_s = AFTER_S if self._trouble else self._latest_s
        if self._quiet_since_s is None or after_s is None:
            return None
        return self._quiet_since_s + after_s

    def take(self, now_s: float) -> str | None:
        """The words, if they are due now; once for each wait."""
        if self.due_s is None or now_s < self.due_s:
            return None
        self._quiet_since_s = None
        return self._words
