"""Whether OAR's settings let our karma decide: in whole, in half, or not at all.

OAR 3 orders its jobs as ``oar.conf`` says, and what it does not know there it passes over: jobs
then start in the order of their numbers, and nothing tells of it. OAR 2 runs the file that the
policy of a queue names; *root* stands before the path of its schedulers.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from oar_accounting.health.records import Finding
from oar_accounting.stubs.oar3 import BadConfig, Config, read_config, read_metrics
from oar_accounting.stubs.oar_user import USER, User
from oar_accounting.stubs.plan import INSTALL, PREFIX

ORDER_OF_JOBS = "order of jobs"
#: What the settings of OAR 3 call our entry points.
OUR_ENTRY_POINT = "accounting"
#: Its policies whose karma asks how much was used, and those that it knows.
PRIORITIES_BY_SUMS = ("FAIRSHARE", "MULTIFACTOR")
KNOWN = ("FIFO", *PRIORITIES_BY_SUMS, "CUSTOM")
#: Where OAR 2 has its schedulers.
SCHEDULERS_OF_OAR2 = "usr/lib/oar/schedulers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """How OAR asks for our karma, or for our sums."""

    given: Config | None = None  #: what OAR 3 tells, with metrics for our sums; None: it is OAR 2
    queues: tuple[str, ...] | None = None  #: in which we decide; None: in all
    is_sure: bool = True  #: False where it could not be read which queues those are


Found = tuple[Finding, Deciding | None]


def look(
    values: Mapping[str, str], oar_conf: Path, policies: Mapping[str, str] | None, root: Path
) -> tuple[list[Finding], Deciding | None]:
    """Who decides by the *values* of *oar_conf* and by the *policies* of OAR's queues.

    *policies*: None where they are not known.
    """
    conf = _Conf(values, oar_conf)
    found = [*_sorting(conf), *_sums(conf), *_schedulers(policies, root / SCHEDULERS_OF_OAR2)]
    if not found:
        found = [(Finding("good", ORDER_OF_JOBS, "OAR's own order decides"), None)]
    deciding = next((each for _, each in found if each is not None), None)
    return [finding for finding, _ in found], deciding


# -- OAR 3 ------------------------------------------------------------------------------------


class _Conf:
    """What OAR 3 reads in ``oar.conf``."""

    def __init__(self, values: Mapping[str, str], file: Path) -> None:
        # It takes every quote off both ends of a value.
        self._values = {key: value.strip("\"'") for key, value in values.items()}
        self.file = file
        self.priority = self.value("JOB_PRIORITY", "FIFO")
        self.sorting = self.value("CUSTOM_JOB_SORTING")
        self.mode = self.value("METASCHEDULER_MODE", "internal")

    def value(self, key: str, default: str = "") -> str:
        return self._values.get(key, default)

    def set(self, key: str, value: str) -> str:
        """The command that gives a key another value."""
        line = f'{key}="{value}"'
        if key in self._values:
            return f"sed -i 's|^ *{key} *=.*|{line}|' {quote(str(self.file))}"
        return f"echo '{line}' >> {quote(str(self.file))}"

    def wrong(self, error: BadConfig, instead: str) -> Finding:
        """A finding on a value that our entry point refuses."""
        said = f"{self.file}: {error}; {instead} in every round"
        return Finding("bad", ORDER_OF_JOBS, said, f"editor {quote(str(self.file))}")

    def priority_said(self) -> str:
        """What JOB_PRIORITY is, and what OAR 3 makes of it."""
        if self.priority in KNOWN:
            return f"JOB_PRIORITY of {self.file} is {self.priority}"
        return (
            f"JOB_PRIORITY of {self.file} is {self.priority!r}, which OAR 3 does not know, so that "
            "jobs start in the order of their numbers"
        )


def _sorting(conf: _Conf) -> Iterator[Found]:
    """CUSTOM_JOB_SORTING: our karma orders the jobs."""
    if conf.priority != "CUSTOM":
        if conf.sorting == OUR_ENTRY_POINT:
            said = f"CUSTOM_JOB_SORTING is {OUR_ENTRY_POINT}, but not asked: {conf.priority_said()}"
            yield _half(said, conf.set("JOB_PRIORITY", "CUSTOM"))
    elif not conf.sorting:
        said = f"{conf.priority_said()} without a CUSTOM_JOB_SORTING: OAR 3 starts no job at all"
        yield (
            Finding("bad", ORDER_OF_JOBS, said, conf.set("CUSTOM_JOB_SORTING", OUR_ENTRY_POINT)),
            None,
        )
    elif conf.sorting != OUR_ENTRY_POINT:
        said = f"not ours: CUSTOM_JOB_SORTING of {conf.file} is {conf.sorting}"
        yield Finding("good", ORDER_OF_JOBS, said), None
    else:
        key = "CUSTOM_JOB_SORTING_CONFIG"
        try:
            given = read_config(conf.value(key), key)
        except BadConfig as error:
            yield conf.wrong(error, "OAR's own order decides"), Deciding(given=Config())
            return
        said = "that of our karma: OAR 3's CUSTOM_JOB_SORTING is ours"
        yield Finding("good", ORDER_OF_JOBS, said), Deciding(given=given)


def _sums(conf: _Conf) -> Iterator[Found]:
    """EXTRA_METASCHED: OAR's own karma is that of our sums."""
    if conf.value("EXTRA_METASCHED") != OUR_ENTRY_POINT or conf.priority == "CUSTOM":
        return
    if conf.priority not in PRIORITIES_BY_SUMS:
        nobody = f"but nobody asks for its sums: {conf.priority_said()}"
        said = f"EXTRA_METASCHED is {OUR_ENTRY_POINT}, {nobody}"
        yield _half(said, conf.set("JOB_PRIORITY", PRIORITIES_BY_SUMS[0]))
        return
    if conf.mode != "internal":
        said = (
            f"EXTRA_METASCHED is {OUR_ENTRY_POINT}, and OAR's own sums count nevertheless, because "
            f"METASCHEDULER_MODE is {conf.mode}"
        )
        yield _half(said, conf.set("METASCHEDULER_MODE", "internal"))
        return
    key = "EXTRA_METASCHED_CONFIG"
    try:
        given = read_metrics(conf.value(key), key)
    except BadConfig as error:
        yield conf.wrong(error, "OAR's own sums count"), Deciding(given=Config())
        return
    said = f"that of {conf.priority} of OAR 3, whose karma is made of our sums"
    yield Finding("good", ORDER_OF_JOBS, said), Deciding(given=given)


def _half(said: str, mend: str) -> Found:
    return Finding("warning", ORDER_OF_JOBS, said, mend), None


# -- OAR 2 ------------------------------------------------------------------------------------


def _schedulers(policies: Mapping[str, str] | None, place: Path) -> Iterator[Found]:
    """The policies of queues, and the files that they name."""
    there = sorted(place.glob(f"{PREFIX}*"))
    if policies is None:
        if there:
            said = f"{there[0]} is there, but which queues have that policy is not known"
            yield Finding("good", ORDER_OF_JOBS, said), Deciding(is_sure=False)
        return
    ours = {name: policy for name, policy in policies.items() if policy.startswith(PREFIX)}
    for policy in dict.fromkeys(ours.values()):
        named = ", ".join(name for name in ours if ours[name] == policy)
        well = Finding(
            "good", ORDER_OF_JOBS, f"that of our karma in these queues of OAR 2: {named}"
        )
        yield _fault(place / policy, named) or well, Deciding(queues=tuple(ours))
    if there and not ours:
        said = f"OAR's own order decides: {there[0]} is there, but no queue has that policy"
        yield Finding("good", ORDER_OF_JOBS, said), None


def _fault(file: Path, queues: str) -> Finding | None:
    """What keeps OAR 2 from running the *file* that is to schedule these queues."""
    own = file.with_name(file.name.removeprefix(PREFIX))
    if not os.path.exists(file):
        said = (
            f"{file} is to schedule {queues}, and is not there: OAR disables what it is to schedule"
        )
        return Finding("bad", ORDER_OF_JOBS, said, INSTALL)
    if not os.path.exists(own):
        said = f"{file} runs {own.name}, which is not there: no job of {queues} starts"
        return Finding("bad", ORDER_OF_JOBS, said, f"ls {quote(str(file.parent))}")
    with suppress(KeyError):
        at = User.named(USER).denied(file, os.R_OK | os.X_OK)
        if at is not None:
            said = f"the user {USER} may not run {file}, because of {at}: OAR disables {queues}"
            return Finding("bad", ORDER_OF_JOBS, said, f"chmod a+rx {quote(str(at))}")
    return None
