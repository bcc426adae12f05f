"""What is told of names that stand encoded twice in OAR's database: nothing is merged unsaid."""

from collections import defaultdict

from oar_accounting.core.formats import listed
from oar_accounting.ledger.catalog import Site
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.spellings import DOUBLE_ENCODED, decoded


def merged_names(oar: OarJobs, site: Site) -> list[str]:
    """A line where OAR has names in two spellings that are recorded as one.

    OAR is asked only where names are recorded as it shows them.
    """
    if site.terms.names != DOUBLE_ENCODED:
        return []
    spellings: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name in oar.names():
        spellings[kind, decoded(name)].append(name)
    merged = [
        f"{kind} {shown!r} ({' and '.join(map(repr, found))})"
        for (kind, shown), found in spellings.items()
        if len(found) > 1
    ]
    if not merged:
        return []
    return [f"OAR has names in two spellings, which count as one: {listed(merged)}"]


def undecoded_names(oar: OarJobs) -> str:
    """What is told of names that seem to be encoded twice; empty where there are none."""
    names = oar.names()
    twice = {(kind, name): decoded(name) for kind, name in names if decoded(name) != name}
    if not twice:
        return ""
    some = listed([f"{kind} {name!r} as {shown!r}" for (kind, name), shown in twice.items()])
    said = f"some stand encoded twice in OAR's database, it seems, and OAR 2 shows {some}"
    both = [f"{kind} {shown!r}" for (kind, _), shown in twice.items() if (kind, shown) in names]
    if both:
        said += f"; it has {listed(both)} as well, and the two would count as one"
    return said
