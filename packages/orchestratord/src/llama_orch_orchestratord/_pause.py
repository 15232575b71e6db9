"""For how long somebody who takes nothing is left alone. Pure: moments and chance are handed in."""

_FIRST = 0.25
"""Seconds after which to look again where nobody knows how long it lasts; doubled each time."""

_LONGEST = 5.0
_SHORTEST = 0.05


class Pause:
    """It lasts until `until`. `told`: for as long as was asked for, and not for as long as was guessed."""

    def __init__(self) -> None:
        self.until = 0.0
        self.told = False
        self._guesses = 0  # since something was taken

    def extend(self, seconds: float | None, now: float, spread: float) -> None:
        """Nothing is taken now, as was just seen, and may be again after so long.

        None, where nobody knows: to be looked at after a while that grows until something is taken, shortened by
        `spread` from 0 to 1.
        """
        if seconds is None:
            if self._guesses and now < self.until and not self.told:
                return
            seconds = min(_LONGEST, _FIRST * 2.0 ** min(self._guesses, 16)) * (1 - spread / 2)
            self._guesses += 1
            self.told = False
        else:
            self.told = True
        self.until = now + max(_SHORTEST, seconds)

    def end(self, now: float) -> None:
        """It is to be looked at again."""
        self.until = now
        self.told = False

    def forget(self, now: float) -> None:
        """Something was taken, as was just seen."""
        self.end(now)
        self._guesses = 0
