"""What the doctor says of OAR's queues from which no job starts any more, and of its events."""

from shlex import quote

from oar_accounting.core import formats
from oar_accounting.errors import OarSchemaError
from oar_accounting.health.records import Finding
from oar_accounting.health.rights import is_denied
from oar_accounting.oar.queues import Queues

QUEUES = "queues"


def finding(found: Queues, now: int, log: str) -> Finding:
    """What the doctor says of the queues; *log*: the file that OAR logs to."""
    if not found.stopped:
        said = "all of OAR's are active" if found.policies else "OAR has none"
        return Finding("good", QUEUES, said)
    names = ", ".join(found.stopped)
    said = f"notActive, so that none of their jobs starts: {names}; {_since(found, now, log)}"
    waits = any(name in found.waiting for name in found.stopped)
    is_bad = waits or found.event is not None
    return Finding("bad" if is_bad else "warning", QUEUES, said, _enable(found))


def _since(found: Queues, now: int, log: str) -> str:
    if found.unread:
        return "since when is not known, as the role may not read OAR's table event_logs"
    event = found.event
    if event is None:
        return f"no event says since when; look for 'Disabling queue' in {log}"
    ago = formats.lasting(now - event.at)
    return (
        f"since {formats.date(event.at)}, {ago} ago, by {event.kind} of job {event.job}: "
        f"{' '.join(event.said.split())}"
    )


def _enable(found: Queues) -> str:
    """OAR's command that makes them active again."""
    everything = len(found.stopped) == len(found.policies)
    if found.is_oar3:
        if everything:
            return "oarqueue --enable-all"
        return " && ".join(f"oarqueue --enable {quote(name)}" for name in found.stopped)
    if everything:
        return "oarnotify -E"
    return "oarnotify" + "".join(f" --enable-queue {quote(name)}" for name in found.stopped)


def unread_finding(error: OarSchemaError, role: str | None, mend: str) -> Finding:
    """The same where OAR's queues cannot be read; all else goes on."""
    if role is None or not is_denied(error):
        return Finding("good", QUEUES, f"not looked at: {error}")
    said = f"not looked at: the role {role} may not read OAR's table queues; roles.sql lets it"
    return Finding("good", QUEUES, said, mend)
