"""What stands of problems beside those of jobs that are recorded: of resources, and what goes."""

from collections.abc import Iterable

from oar_accounting.core.columns import ints
from oar_accounting.core.problems import OF_RESOURCE, Code, Trouble, Troubles, of_metric
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import problems
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.records import PassReport
from oar_accounting.metrics.metric import bad_values
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.spellings import holds_other_bytes
from oar_accounting.recording.runs import Runs


def look_at_resources(runs: Runs, now: int) -> list[str]:
    """Note what is wrong with OAR's resources as they are now; a line for each of them.

    *now*: epoch seconds.
    """
    with runs.ledger.writing() as book:
        found = _troubles(book, runs.oar)
        connection, site_id = book.connection, book.site.site_id
        problems.note_all(connection, site_id, OF_RESOURCE, now, found.by_id)
    return [f"resource {number}: {said}" for number, said in sorted(found.told().items())]


def _troubles(book: Book, oar: OarJobs) -> Troubles:
    present = oar.properties()
    metrics = [each.metric for each in book.metrics() if present.issuperset(each.metric.properties)]
    names = {name for metric in metrics for name in metric.properties}
    names |= present & {book.site.terms.dimension}
    with oar.snapshot() as snapshot:
        resources = snapshot.resources(tuple(sorted(names)))
    found = Troubles()
    for metric in metrics:
        for row, said in bad_values(metric, resources).items():
            message = of_metric(metric.name, f"{said}; counted as nothing")
            found.add(int(resources.resource_id[row]), Trouble(Code.BAD_VALUE, message))
    for name, values in {"type": resources.type, **resources.properties}.items():
        for row, value in enumerate(values):
            if isinstance(value, str) and holds_other_bytes(value):
                message = f"property {name!r} is '{value}', and not UTF-8 in OAR's database"
                found.add(int(resources.resource_id[row]), Trouble(Code.BAD_TEXT, message))
    return found


def dismiss(runs: Runs, jobs: Iterable[int], codes: Iterable[str]) -> int:
    """Forget the problems of these jobs, and those of jobs that have these codes; how many.

    Raises :class:`UnknownName` where the site is not recorded, or a code not known.
    """
    ids, named = ints(list(jobs)), list(codes)
    known = [each.value for each in Code]
    for code in named:
        if code not in known:
            raise UnknownName(f"there is no problem {code!r}; there are {', '.join(known)}")
    with runs.noted("dismiss", new=False) as entry:
        with runs.ledger.writing() as book:
            connection, site_id = book.connection, book.site.site_id
            count = problems.remove_of_jobs(connection, site_id, ids)
            count += problems.remove_of_codes(connection, site_id, named)
        entry.report = PassReport(done=count)
    return count
