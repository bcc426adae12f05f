"""What may be wrong with jobs and resources: each kind of it has a code, and what helps.

Pure. A problem never stops a pass: it stands until it is gone.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

OF_JOB, OF_RESOURCE = "job", "resource"


class Code(Enum):
    """Which problem it is, as it is stored: up to 32 characters."""

    IMPOSSIBLE_TIMES = "impossible-times"
    TOO_LARGE = "too-large"
    REMOVED_RESOURCE = "removed-resource"
    KEPT = "kept-as-recorded"
    INCOMPLETE_METRIC = "incomplete-metric"
    BELOW_ZERO = "below-zero"
    BAD_VALUE = "bad-value"
    BAD_TEXT = "not-utf-8"
    LONG_NAME = "long-name"
    OTHER_JOB = "other-job"
    VANISHED = "vanished"
    PURGED = "changed-since-purged"


_RECORD = "oar-accounting record {subject}"
_DISMISS = "oar-accounting problems --dismiss {subject}"

#: What somebody does first, and then the command.
_HELP: dict[Code, tuple[str, str]] = {
    Code.IMPOSSIBLE_TIMES: ("correct the times in OAR, then", _RECORD),
    Code.TOO_LARGE: ("correct the job in OAR, or declare a larger unit, then", _RECORD),
    Code.REMOVED_RESOURCE: (
        "OAR has deleted the resource for good; take it off this list with",
        _DISMISS,
    ),
    Code.KEPT: ("its resources cannot be restored; take it off this list with", _DISMISS),
    Code.INCOMPLETE_METRIC: ("what OAR deleted is lost; take it off this list with", _DISMISS),
    Code.BELOW_ZERO: ("correct the formula, or the metrics it uses, then", _RECORD),
    Code.BAD_VALUE: ("correct the property of the resource in OAR, then", _RECORD),
    Code.BAD_TEXT: ("write the text as UTF-8 in OAR's database, then", _RECORD),
    Code.LONG_NAME: ("shorten the name in OAR's database, then", _RECORD),
    Code.OTHER_JOB: (
        "if OAR is reusing job ids, free all ids from this one on with",
        "oar-accounting retire --from {subject}",
    ),
    Code.VANISHED: ("nothing more is known about it; take it off this list with", _DISMISS),
    Code.PURGED: ("adjust the account if it matters, then take it off this list with", _DISMISS),
}
#: The same of resources.
_RESOURCE_HELP: dict[Code, tuple[str, str]] = {
    Code.BAD_VALUE: (
        "correct it (oarnodesetting -r {subject} -p PROPERTY=NUMBER), and read the past again with",
        "oar-accounting rebuild --from-oar",
    ),
    Code.BAD_TEXT: (
        "write it as UTF-8 in OAR's database, and read the past again with",
        "oar-accounting rebuild --from-oar",
    ),
}


def what_helps(kind: str, subject: str, code: str) -> tuple[str, str]:
    """What to do first, and the command; of a code that a later version knows, neither."""
    known = {each.value: each for each in Code}
    if code not in known:
        return "", ""
    helps = _RESOURCE_HELP if kind == OF_RESOURCE else _HELP
    first, command = helps.get(known[code], ("", ""))
    return first.format(subject=subject), command.format(subject=subject)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, in words."""

    code: Code
    message: str


def coded(code: Code, reasons: Mapping[int, str]) -> dict[int, Trouble]:
    """The reasons, by job, under a code."""
    return {job: Trouble(code, reason) for job, reason in reasons.items()}


class Troubles:
    """What is wrong, by the id of the job or resource; each thing once, as it was found."""

    def __init__(self) -> None:
        self.by_id: defaultdict[int, list[Trouble]] = defaultdict(list)

    def add(self, number: int, trouble: Trouble) -> None:
        """This one, too."""
        if trouble not in self.by_id[number]:
            self.by_id[number].append(trouble)

    def update(self, found: Mapping[int, Trouble]) -> None:
        """These, too."""
        for number, trouble in found.items():
            self.add(number, trouble)

    def clear(self) -> None:
        """Begin anew."""
        self.by_id.clear()

    def told(self) -> dict[int, str]:
        """A line for each id."""
        return {
            number: "; ".join(each.message for each in found).replace("\n", "; ")
            for number, found in self.by_id.items()
        }


def of_metric(name: str, said: str) -> str:
    """A message about one metric of a job."""
    return f"metric {name}: {said}"


def incomplete(name: str) -> str:
    """The message about a metric of a job that OAR has deleted, in whole or in part."""
    return f"OAR no longer has it whole: {name} is not recorded, or in part"


def is_of_metric(line: str, name: str) -> bool:
    """True for what `of_metric` and `incomplete` give."""
    return line.startswith(of_metric(name, "")) or line == incomplete(name)
