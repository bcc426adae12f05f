"""The entry points that OAR 3's scheduler calls: the order of its jobs, and the sums of its karma.

``sort_jobs`` is what CUSTOM_JOB_SORTING names in ``oar.conf`` where JOB_PRIORITY is CUSTOM;
``count_usage`` is what EXTRA_METASCHED names. An error of either would end the scheduler, and no
job of any queue would start. So neither raises: the jobs go back in the order they came in, the
sums are OAR's own, and one line in OAR's log says why. The jobs and the session that OAR hands over
are not touched: what is assigned to a job is written to OAR's table, with a commit for each.

Only the standard library is imported here, and what else there is where an error is caught; all
that reads settings or a database runs in the child of `bounded`.
"""

import json
import logging
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

#: Of OAR's own logger, which writes to its LOG_FILE.
_log = logging.getLogger("oar.accounting")

#: Seconds that a scheduler waits for an answer, and what may be set.
LIMIT = 5.0
SHORTEST, LONGEST = 0.1, 600.0

#: What a platform, of which every round has its own, is marked with: it has been shown to us, or we
#: could not answer.
SEEN, FAILED = "oar_accounting_seen", "oar_accounting_failed"


class BadConfig(Exception):
    """What oar.conf tells an entry point cannot be used; the text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What ``oar.conf`` tells an entry point, as a JSON object."""

    limit: float = LIMIT  #: seconds
    config: str | None = None  #: our settings; None for where they always are
    oar_conf: str | None = None  #: OAR's settings; likewise
    site: str | None = None
    show: bool | str = False  #: write what users see; a text is the settings to do it under


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Given):
    """The same of the entry point that puts our sums in the place of OAR's."""

    metrics: Mapping[str, float]  #: how much an amount of each counts


def sort_jobs(  # noqa: PLR0913 - OAR 3 calls it so
    queues: Sequence[str],
    now: int,
    jids: Sequence[int],
    jobs: Mapping[int, Any],
    config: object,
    plt: object,
) -> list[int]:
    """The ids *jids* in the order of our karma as of *now*, epoch seconds; as they are on failure.

    *config*: CUSTOM_JOB_SORTING_CONFIG of ``oar.conf``, a JSON object with the keys of `Given`.
    Jobs that our side does not know of come last. After a failure, OAR's order holds for all queues
    of the round, so that none waits for the limit again. Never raises.
    """
    received = list(jids)
    if getattr(plt, FAILED, False):
        return received
    try:
        from oar_accounting.schedulers import bounded

        given = read_given(config, "CUSTOM_JOB_SORTING_CONFIG")
        said = bounded.answer(partial(_in_order, received, int(now), given), given.limit)
        ordered = array("q", said).tolist()
        if sorted(ordered) != sorted(received):
            raise ValueError("the answer is not about these jobs")
    except Exception as error:
        with suppress(Exception):
            setattr(plt, FAILED, True)
        _warn(f"jobs of {_named(queues)} stay as they are", error)
        return received
    if given.show:
        _show(given)
    return ordered


def count_usage(  # noqa: PLR0913 - OAR 3 calls it so
    session: object,
    prev_queues: object,
    plt: Any,
    scheduled_jobs: object,
    all_slot_sets: object,
    job_security_time: object,
    queues: object,
    now: object,
    config: object,
) -> None:
    """Let OAR's own FAIRSHARE and MULTIFACTOR see our sums in the place of its accounting's.

    *config*: EXTRA_METASCHED_CONFIG of ``oar.conf``, a JSON object with the keys of `Counted`:
    ``metrics`` as ``{"core": 1, "gpu": 20}``, or one as ``"metric": "core"``. Never raises.
    """
    try:
        # OAR calls once for every group of queues, with the same platform.
        if not hasattr(plt, SEEN):
            setattr(plt, SEEN, True)
            sums = _Sums(read_counted(config, "EXTRA_METASCHED_CONFIG"))
            theirs = [getattr(plt, name) for name in ASKED_BY]
            for place, name in enumerate(ASKED_BY):
                setattr(plt, name, _Replaced(sums, place, theirs[place]))
    except Exception as error:
        _warn("OAR's own sums count", error)


# -- what oar.conf tells ----------------------------------------------------------------------


def read_given(config: object, where: str) -> Given:
    """The value of *where*, checked. Raises :class:`BadConfig`."""
    return Given(**_checked(_object(config, where), where))


def read_counted(config: object, where: str) -> Counted:
    """The same with the metrics that count. Raises :class:`BadConfig`."""
    given = _object(config, where)
    if "metric" in given and "metrics" not in given:
        if not isinstance(given["metric"], str):
            raise BadConfig(f'{where}: "metric" must be a name')
        given["metrics"] = {given.pop("metric"): 1}
    metrics = given.pop("metrics", None)
    if not isinstance(metrics, dict) or not metrics or not all(map(_is_weight, metrics.values())):
        raise BadConfig(
            f'{where}: "metrics" must be an object like {{"core": 1, "gpu": 20}} with numbers '
            'above 0, or "metric" a name'
        )
    return Counted(**_checked(given, where, without=("show",)), metrics=metrics)


def _object(config: object, where: str) -> dict[Any, Any]:
    # OAR makes a number of what looks like one, and "" of what is not set.
    if config in (None, ""):
        return {}
    try:
        found = json.loads(config) if isinstance(config, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadConfig(f'{where} must be a JSON object like {{"limit": 5}}, not {config!r:.100}')
    return found


def _checked(given: dict[str, Any], where: str, without: Sequence[str] = ()) -> dict[str, Any]:
    known = [name for name in Given.__dataclass_fields__ if name not in without]
    for key, value in given.items():
        if key not in known:
            raise BadConfig(f"{where}: unknown key {key!r}; known keys are {', '.join(known)}")
        if key == "limit" and not (_is_weight(value) and SHORTEST <= value <= LONGEST):
            raise BadConfig(f"{where}: limit must be seconds from {SHORTEST:g} to {LONGEST:g}")
        if key == "show" and not isinstance(value, bool | str):
            raise BadConfig(f"{where}: show must be true, false or a file of settings")
        if key not in ("limit", "show") and not isinstance(value, str):
            raise BadConfig(f"{where}: {key} must be a text")
    return given


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12


def _warn(said: str, error: Exception) -> None:
    # Of ours, the text says it all. A name or a message may hold anything; this is one line.
    ours = type(error).__module__.startswith("oar_accounting.")
    why = str(error) if ours else f"{type(error).__name__}: {error}"
    _log.warning("oar_accounting: %s", " ".join(f"{said}: {why}".split()))


def _named(queues: Sequence[str]) -> str:
    try:
        return ", ".join(map(str, queues))
    except TypeError:
        return repr(queues)


def _show(given: Given) -> None:
    """Let users see it when the round is over; what fails here leaves the order as it is."""
    try:
        from oar_accounting.schedulers import show

        config = given.show if isinstance(given.show, str) else given.config
        show.after_this_process(given.oar_conf, config, given.site)
    except Exception as error:
        _warn("users do not see this karma", error)


# -- in the child -----------------------------------------------------------------------------


@contextmanager
def _fair_share(now: int, given: Given) -> Iterator[Any]:
    from oar_accounting import settings
    from oar_accounting.dialects import check_forkable
    from oar_accounting.fair_share.answers import fair_share_of

    read = settings.load(oar_conf=given.oar_conf, config=given.config, site=given.site)
    check_forkable(read.oar_url)
    check_forkable(read.url)
    with fair_share_of(read, now, given.limit) as found:
        yield found


def _in_order(jids: Sequence[int], now: int, given: Given) -> bytes:
    """The ids in order, those that nothing is known of last, as 64-bit numbers."""
    with _fair_share(now, given) as asked:
        report = asked.karma(jids)
    known = report.job_id.tolist()
    found = set(known)
    return array("q", [*known, *(jid for jid in jids if jid not in found)]).tobytes()


def _sums(queues: Sequence[str], start: int, stop: int, given: Counted) -> bytes:
    with _fair_share(stop, given) as asked:
        sums = asked.sums(given.metrics, queues, start)
    return json.dumps([sums.window, sums.by_project, sums.by_user], allow_nan=False).encode()


# -- the sums ---------------------------------------------------------------------------------

#: The methods of OAR's platform that its karma asks, in the order of `_sums`.
ASKED_BY = (
    "get_sum_accounting_window",
    "get_sum_accounting_by_project",
    "get_sum_accounting_by_user",
)


class _Sums:
    """Our sums of a scheduling round; once they cannot be had, OAR's own count until its end."""

    def __init__(self, given: Counted) -> None:
        self._given = given
        self._known: dict[tuple[tuple[str, ...], int, int], list[Any]] = {}
        self._failed = False

    def of(self, queues: Sequence[str], start: int, stop: int) -> list[Any] | None:
        """Of all, by project and by user, each as asked and used; None where OAR's own count."""
        key = (tuple(queues), int(start), int(stop))
        if key not in self._known and not self._failed:
            try:
                from oar_accounting.schedulers import bounded

                said = bounded.answer(partial(_sums, *key, self._given), self._given.limit)
                self._known[key] = json.loads(said)
            except Exception as error:
                self._failed = True
                _warn("OAR's own sums count", error)
        return None if self._failed else self._known[key]


class _Replaced:
    """One of OAR's methods, answered by our sums."""

    def __init__(self, sums: _Sums, place: int, theirs: Callable[..., Any]) -> None:
        self._sums = sums
        self._place = place
        self._theirs = theirs

    def __call__(self, session: object, queues: Sequence[str], start: int, stop: int) -> Any:
        found = self._sums.of(queues, start, stop)
        if found is None:
            return self._theirs(session, queues, start, stop)
        return tuple(found[self._place])
