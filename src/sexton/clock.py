"""The only reader of time, so that everything else takes `now` as an argument and tests can choose it."""

import time

now = time.time_ns
"""UTC time in nanoseconds since 1970. Can go backwards: order nothing by it that was not stamped by one writer."""

monotonic = time.monotonic_ns
"""Nanoseconds that never go backwards; for durations and deadlines in this process only."""

sleep = time.sleep
"""Sleep for a number of seconds."""

SECOND = 1_000_000_000


class Deadline:
    """A moment `seconds` from now, on the clock that never jumps."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + int(seconds * SECOND)

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, (self._at - monotonic()) / SECOND)

    @property
    def passed(self) -> bool:
        return monotonic() >= self._at
