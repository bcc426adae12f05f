"""How much the past counts: a factor from 0 to 1 for every window of time. Pure arithmetic.

Times are epoch seconds UTC, exact up to 2^53; windows are half-open, ``[start, stop)``. Of a window
only its total is known: it is taken to lie evenly over the part of the window before now.

How wrong can that be? Under a half-life H, two instants of a window of length L differ by at most
2^(L/H) in weight, and the mean lies between them: so wherever in the window its use really was, the
weighted usage is right within a factor 2^(L/H). That is 1.4 % for windows of an hour and a
half-life of two days, 10 % for windows of a day and a half-life of a week.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oar_accounting.core.columns import Ints

Floats = npt.NDArray[np.float64]

EXACT_RULE, OAR2, OAR3 = RULES = ("exact", "oar2", "oar3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """All that was used within the last *length* seconds counts in full; all, where it is None.

    Of a window that is partly older, ``exact`` counts its share within. OAR counts whole windows:
    ``oar2`` those that begin within the length and before now, as the schedulers of OAR 2.5.9
    (``get_sum_accounting_window`` of OAR/IO.pm); ``oar3`` those of them that are over by now, as
    oar.kao.karma of OAR 3, whose stored stop is the last second of a window.
    """

    length: int | None = None
    rule: str = EXACT_RULE

    def __post_init__(self) -> None:
        _check_positive("length", self.length)
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, not {self.rule!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfLife:
    """What was used *seconds* ago counts half, what was used twice as long ago a quarter.

    What is more than *length* seconds ago counts nothing; without *length*, nothing is ever
    forgotten. The weights are those of exact decay, unlike those of Slurm, which decays in steps
    by a factor that is only nearly a half (doc/html/classic_fair_share.shtml, "half-life").
    """

    seconds: int
    length: int | None = None

    def __post_init__(self) -> None:
        _check_positive("seconds", self.seconds)
        _check_positive("length", self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A factor from 0 to 1 for each period of *period* seconds; older periods count nothing.

    Periods begin at the multiples of their length since the epoch, like the windows of Maui
    (FSINTERVAL, FSDEPTH, FSDECAY) and the bins of flux-accounting. The first factor is for the
    period that contains now. Periods are half-open: at the very instant in which one begins it is
    the first already, empty, and what was used up to then counts with the second factor.
    """

    period: int
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_positive("period", self.period)
        if not self.factors or not all(0 <= factor <= 1 for factor in self.factors):
            raise ValueError(f"factors must be numbers from 0 to 1, one or more: {self.factors}")


Weighting = Flat | HalfLife | Steps


def _check_positive(name: str, seconds: int | None) -> None:
    if seconds is not None and seconds < 1:
        raise ValueError(f"{name} must be 1 s or more, not {seconds}")


def earliest(weighting: Weighting, now: int) -> int | None:
    """The instant before which nothing counts; None where all of the past does."""
    if isinstance(weighting, Steps):
        period = weighting.period
        return (now // period + 1 - len(weighting.factors)) * period
    return None if weighting.length is None else now - weighting.length


def weights(weighting: Weighting, start: Ints, stop: Ints, now: int) -> Floats:
    """How much of an amount counts that lies evenly over the part of each window before *now*.

    From 0 to 1. A window that begins at *now* or later, and one that is empty, counts 0.
    """
    began: Floats = now - start.astype(np.float64)
    over: Floats = now - stop.astype(np.float64)
    there = (began > 0) & (start < stop)
    found = np.zeros(len(start))
    found[there] = _factors(weighting, began[there], over[there], now)
    return found


def _factors(weighting: Weighting, began: Floats, over: Floats, now: int) -> Floats:
    """The same for windows that began, and were over, so many seconds before now.

    *over* is negative for those that are not over yet.
    """
    ended = np.maximum(over, 0.0)
    match weighting:
        case Flat(length=length, rule=rule):
            oldest = math.inf if length is None else length
            if rule == EXACT_RULE:
                return _seconds(began, ended, 0, oldest) / (began - ended)
            counts = (began <= oldest) & ((rule == OAR2) | (over >= 0))
            return counts.astype(np.float64)
        case HalfLife(seconds=seconds, length=length):
            oldest = math.inf if length is None else length
            return _mean_of_decay(began, ended, oldest, seconds)
        case Steps(period=period, factors=factors):
            return _mean_of_steps(began, ended, now % period, period, factors)


def _seconds(began: Floats, ended: Floats, youngest: float, oldest: float) -> Floats:
    """How many seconds of each window are from *youngest* to *oldest* seconds ago."""
    seconds: Floats = np.minimum(began, oldest) - np.maximum(ended, youngest)
    return np.maximum(seconds, 0.0)


def _mean_of_decay(began: Floats, ended: Floats, oldest: float, half_life: int) -> Floats:
    """The mean of 2^(-age / half-life) over each window, 0 for what is older than *oldest*.

    With x = ln 2 / half-life, the integral of e^(-x·age) over c seconds from the window's end back
    is e^(-x·ended)·(1 - e^(-x·c)) / x; ``expm1`` keeps all digits of a window much shorter than the
    half-life.
    """
    rate = math.log(2) / half_life
    counted = _seconds(began, ended, 0, oldest)
    mean: Floats = -np.expm1(-rate * counted) / (rate * (began - ended))
    return np.exp2(-ended / half_life) * mean


def _mean_of_steps(
    began: Floats, ended: Floats, first: int, period: int, factors: tuple[float, ...]
) -> Floats:
    """The mean of the factors over each window; *first* seconds of the running period are over."""
    counted = np.zeros(len(began))
    for place, factor in enumerate(factors):
        oldest = first + place * period
        counted += factor * _seconds(began, ended, oldest - period, oldest)
    return counted / (began - ended)
