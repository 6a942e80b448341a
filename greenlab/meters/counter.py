"""Follows one cumulative energy counter: adds up its wraps, notices resets and standstills."""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from greenlab.record import CounterHealth

IMPLAUSIBLE_W = 2000.0
"""No single CPU package, memory zone or GPU board of today draws as much on average.

A counter that runs backwards has either wrapped or been reset. It is taken for a wrap where the
power that a wrap implies stays below this.
"""
PEAK_BASELINE_S = 0.05
TICKS_TO_OBSERVE = 12
OBSERVE_WITHIN_S = 0.5
"""NVML's energy counter advances every 20 to 100 ms, RAPL's about every millisecond."""


class Counter:
    """Joules since it was opened, from a raw counter that may start again at zero.

    Exact as long as `joules()` is called more often than the counter wraps. Not thread-safe: the
    meter that owns it holds a lock.
    """

    def __init__(
        self,
        part: str,
        read_raw_j: Callable[[], float],
        *,
        range_j: float | None = None,
        quantum_j: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = part
        self._quantum_j = quantum_j
        self._tick_s: float | None = None
        self._read_raw_j = read_raw_j
        self._range_j = range_j
        self._clock = clock
        self._joules = 0.0
        self._raw_j, self._read_at_s = self._read_raw_j(), self._clock()
        self._forget()

    def restart_health(self) -> None:
        """Start `health` afresh, from a new reading; what was counted stays."""
        self.joules()
        self._forget()

    def _forget(self) -> None:
        self._advanced_at_s = self._read_at_s
        self._peak_from = (self._read_at_s, self._joules)
        self._num_wraps = self._num_resets = 0
        self._longest_gap_s = self._longest_still_s = self._peak_w = 0.0

    def observe_tick(self) -> None:
        """Read without pause until the counter has advanced a few times: how often does it?

        One that hardly moves is given the time that was waited.
        """
        raw_j, started_s = self._read_raw_j(), self._clock()
        advances_s: list[float] = []
        while len(advances_s) <= TICKS_TO_OBSERVE and self._clock() - started_s < OBSERVE_WITHIN_S:
            if (next_j := self._read_raw_j()) != raw_j:
                raw_j = next_j
                advances_s.append(self._clock())
        apart_s = [after - before for before, after in pairwise(advances_s)]
        self._tick_s = median(apart_s) if apart_s else OBSERVE_WITHIN_S

    def joules(self) -> float:
        """Read the counter and return everything that it counted since it was opened."""
        raw_j, now_s = self._read_raw_j(), self._clock()
        gap_s = now_s - self._read_at_s
        self._joules += self._advance_j(raw_j, gap_s)
        self._longest_gap_s = max(self._longest_gap_s, gap_s)
        if raw_j != self._raw_j:
            self._advanced_at_s = now_s
        self._longest_still_s = max(self._longest_still_s, now_s - self._advanced_at_s)
        peak_from_s, peak_from_j = self._peak_from
        if now_s - peak_from_s >= PEAK_BASELINE_S:
            power_w = (self._joules - peak_from_j) / (now_s - peak_from_s)
            self._peak_w = max(self._peak_w, power_w)
            self._peak_from = (now_s, self._joules)
        self._raw_j, self._read_at_s = raw_j, now_s
        return self._joules

    def _advance_j(self, raw_j: float, gap_s: float) -> float:
        if raw_j >= self._raw_j:
            return raw_j - self._raw_j
        if self._range_j is not None:
            wrapped_j = raw_j - self._raw_j + self._range_j
            # A counter is updated in ticks of up to 0.1 s, so a shorter gap may hold a whole tick.
            if 0 <= wrapped_j <= IMPLAUSIBLE_W * max(gap_s, 0.1):
                self._num_wraps += 1
                return wrapped_j
        self._num_resets += 1  # what it counted before is lost; quality.py says so
        return 0.0

    def health(self) -> CounterHealth:
        """How it behaved since it was opened, or since `restart_health`."""
        return CounterHealth(
            part=self.part,
            range_j=self._range_j,
            tick_s=self._tick_s or self._longest_gap_s,
            ticks=self._tick_s is not None,
            quantum_j=self._quantum_j,
            num_wraps=self._num_wraps,
            num_resets=self._num_resets,
            longest_gap_s=self._longest_gap_s,
            longest_still_s=self._longest_still_s,
            peak_w=self._peak_w,
        )
