"""The site of the demonstration: an invented machine, its people and their habits.

Times and walltimes are in seconds, memory is in MiB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.core.lengths import DAY

# -- the machine ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes that are alike."""

    name: str
    nodes: int
    cores: int  #: per node; every core is a row of OAR's resources
    gpus: int = 0  #: per node; its cores are dealt out evenly among them
    mem_mib: int  #: of a node


CLUSTERS = (
    Cluster(name="birch", nodes=24, cores=16, mem_mib=65_536),
    Cluster(name="sequoia", nodes=4, cores=32, mem_mib=786_432),
    Cluster(name="cedar", nodes=6, cores=16, gpus=2, mem_mib=196_608),
)
#: The resources of type default have the ids up to this, the licences those above it.
CORES = sum(cluster.nodes * cluster.cores for cluster in CLUSTERS)
LICENCES = 4
#: State and ``available_upto`` of every resource: what sleeps can always be woken.
ALIVE_STATE = ("Alive", 2_147_483_647)

#: What people call their jobs; many give them no name.
JOB_NAMES = ("", "", "", "train", "train-17", "mesh", "assembly", "sweep", "post-processing")
#: What their programs give, as OAR has it, and how often: 0, exit 1, 3 and 137, signal 11.
RETURNED = {0: 0.93, 256: 0.04, 768: 0.015, 35_072: 0.005, 139: 0.01}

# Places to run at, by number: the clusters; the last node of the first one, which is kept for
# short interactive jobs; the licences.
BIRCH, SEQUOIA, CEDAR, INTERACTIVE, LICENCE = range(5)


def queue_rows() -> list[tuple[Any, ...]]:
    """OAR's queues, with the scheduler that OAR 2 gives them."""
    scheduler = "oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas"
    priorities = {"admin": 10, "besteffort": 0, "default": 2}
    return [(name, priority, scheduler, "Active") for name, priority in priorities.items()]


def resource_rows() -> list[tuple[Any, ...]]:
    """OAR's resources: id, type, network_address, cluster, core, gpu, mem_mib, and how they are.

    The cores of all clusters by node, then the licences. No two cores have the same number, nor
    have two GPUs: a metric counts different numbers.
    """
    rows: list[tuple[Any, ...]] = []
    gpus = 0
    for cluster in CLUSTERS:
        for node in range(1, cluster.nodes + 1):
            host = f"{cluster.name}-{node}.demo.oar"
            for core in range(cluster.cores):
                number = len(rows) + 1
                gpu = gpus + core * cluster.gpus // cluster.cores + 1 if cluster.gpus else None
                own = (number, "default", host, cluster.name, number, gpu, cluster.mem_mib)
                rows.append((*own, *ALIVE_STATE))
            gpus += cluster.gpus
    for _ in range(LICENCES):
        rows.append((len(rows) + 1, "licence", "", None, None, None, None, *ALIVE_STATE))
    return rows


#: What befell the nodes that nobody used for longest, and for how much of that time.
EVENTS = (("Absent", 0.6), ("Suspected", 0.2), ("Absent", 0.5), ("Dead", 0.3), ("Absent", 0.4))


def resource_log_rows(
    since: int, until: int, held: Iterable[tuple[int, int, Sequence[int]]]
) -> list[tuple[Any, ...]]:
    """OAR's log of the resources: alive *since* then, but for `EVENTS` where no job ran.

    *held*: start and stop of every job, and the ids of its resources.
    """
    nodes: dict[str, list[int]] = {}
    for number, _, host, *_ in resource_rows():
        nodes.setdefault(host, []).append(number)
    idle = _longest_idle(
        since, until, held, {n: host for host, all_ in nodes.items() for n in all_}
    )
    worst = sorted(idle, key=lambda host: idle[host][0] - idle[host][1])
    events = dict(zip((host for host in worst if host), EVENTS, strict=False))
    rows: list[tuple[Any, ...]] = []
    for host, numbers in nodes.items():
        states = [("Alive", since, 0)]
        if host in events:
            state, share = events[host]
            start, stop = idle[host]
            begin = start + (stop - start) // 10
            end = begin + int((stop - start) * share)
            states = [("Alive", since, begin), (state, begin, end), ("Alive", end, 0)]
        rows += [(0, number, "state", *each) for number in numbers for each in states]
    return [(number, *row[1:]) for number, row in enumerate(rows, 1)]


#: A node that got the memory which it has today when half of the days were over, and what it had.
EXTENDED, MEM_MIB_BEFORE = "birch-1.demo.oar", 32_768


def property_log_rows(since: int, until: int, first: int) -> list[tuple[Any, ...]]:
    """OAR's log of the properties: all at the creation of the resources, and one change.

    *first*: the id of the first row.
    """
    changed = (since + until) // 2
    rows: list[tuple[Any, ...]] = []
    for number, _, host, cluster, _, _, mem_mib, *_ in resource_rows():
        if cluster is None:
            continue
        rows.append((number, "cluster", cluster, since, 0))
        if host == EXTENDED:
            rows.append((number, "mem_mib", str(MEM_MIB_BEFORE), since, changed))
            rows.append((number, "mem_mib", str(mem_mib), changed, 0))
        else:
            rows.append((number, "mem_mib", str(mem_mib), since, 0))
    return [(first + nth, *row) for nth, row in enumerate(rows)]


def _longest_idle(
    since: int,
    until: int,
    held: Iterable[tuple[int, int, Sequence[int]]],
    nodes: Mapping[int, str],
) -> dict[str, tuple[int, int]]:
    """The longest span of each node in which no job was on it; ids of resources to nodes."""
    free = dict.fromkeys(nodes.values(), since)
    longest = dict.fromkeys(nodes.values(), (since, since))
    last = [(until, until, list(nodes))]
    for start, stop, numbers in [*sorted(held, key=lambda job: job[0]), *last]:
        for host in {nodes[number] for number in numbers}:
            end = min(start, until)
            if end - free[host] > longest[host][1] - longest[host][0]:
                longest[host] = (free[host], end)
            free[host] = max(free[host], stop)
    return longest


#: A place by its number, how many of its nodes, how many units of each.
Want = tuple[int, int, int]
#: Nodes and units, as numpy picks them from a grid.
Units = tuple[Ints, Ints]


@dataclass(frozen=True, slots=True)
class Place:
    """Nodes and their units: a unit is what is given out at once, a core or a GPU with its cores.

    Licences are the units of one node.
    """

    resources: Ints  #: ids, by node, unit and core of the unit
    free: Ints  #: from when on each unit is free, by node and unit; changes in place

    @property
    def units(self) -> int:
        """How many a node has."""
        return int(self.free.shape[1])

    def earliest(self, nodes: int, units: int, at: int) -> tuple[int, Units]:
        """From when on so many are free at once, not before *at*, and which they are."""
        free = np.maximum(self.free, at)
        order = np.argsort(free, axis=1, kind="stable")[:, :units]
        ready = np.take_along_axis(free, order[:, -1:], axis=1)[:, 0]
        chosen = np.argsort(ready, kind="stable")[:nodes]
        return int(ready[chosen].max()), (chosen[:, None], order[chosen])


def _places() -> tuple[Place, ...]:
    """The places by number; resource ids as in `resource_rows`."""
    grids, first = [], 1
    for cluster in CLUSTERS:
        ids = np.arange(first, first + cluster.nodes * cluster.cores)
        grids.append(ids.reshape(cluster.nodes, cluster.gpus or cluster.cores, -1))
        first += len(ids)
    kept, grids[BIRCH] = grids[BIRCH][-1:], grids[BIRCH][:-1]
    grids += [kept, np.arange(first, first + LICENCES).reshape(1, -1, 1)]
    return tuple(Place(grid, np.zeros(grid.shape[:2], np.int64)) for grid in grids)


class Machine:
    """Gives every unit to one job at a time, first come first served, nothing in between."""

    def __init__(self) -> None:
        self.places = _places()
        self._taken: list[tuple[Place, Units]] = []

    def take(self, wants: Sequence[Want], at: int) -> tuple[int, tuple[int, ...]]:
        """The earliest start from *at* on, and the resource ids; `keep` must follow."""
        start, ids = at, []
        self._taken = []
        for number, nodes, units in wants:
            place = self.places[number]
            ready, chosen = place.earliest(nodes, units, at)
            start = max(start, ready)
            ids.append(place.resources[chosen].ravel())
            self._taken.append((place, chosen))
        return start, tuple(np.sort(np.concatenate(ids)).tolist())

    def keep(self, until: int) -> None:
        """What was taken last is free from *until* on."""
        for place, chosen in self._taken:
            place.free[chosen] = until


# -- the people -------------------------------------------------------------------------------

# The most active first. OAR tells "bob" from "Bob", and a quote is a letter like any other.
USERS = (
    *("elena", "bob", "farid", "zoé", "chen", "hugo", "o'neill", "giulia", "Bob", "ines"),
    *("jonas", "kenza", "lucas", "mei", "nadia", "oscar", "paula", "quentin", "rosa", "samir"),
    *("tomas", "ulla", "victor", "wanda", "yann"),
)
PROJECT_NAMES = (
    "l'eau",
    "genome",
    "turbulence",
    "vision",
    "seismic",
    "plasma",
    "climate",
    "teaching",
)

#: Where each user likes to run, in the order of `USERS`, and again from the first.
FAVOURITES = (BIRCH, BIRCH, CEDAR, BIRCH, SEQUOIA)

#: What people ask for, the shortest first, and how often.
WALLTIMES = (600, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400, 172_800)
WALLTIME_SHARES = (0.04, 0.04, 0.14, 0.15, 0.14, 0.17, 0.19, 0.13)

#: Nodes, and how much of each (at least a unit); and how often.
JOB_SIZES = ((1, 0.0), (1, 0.25), (1, 0.5), (1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0))
SIZE_SHARES = (0.3, 0.12, 0.1, 0.2, 0.13, 0.1, 0.05)

#: How much is submitted in each hour of the day, UTC, and on each day from Monday on.
HOURS = (3, 2, 2, 1, 1, 2, 4, 8, 16, 22, 24, 22, 14, 18, 24, 24, 22, 18, 12, 8, 6, 5, 5, 4)
WEEKDAYS = (1.0, 1.1, 1.1, 1.0, 0.9, 0.3, 0.2)

#: The share of the machine's time that is asked for at most; less than half of it is used.
MOST_ASKED = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asks for, and how long the program takes."""

    user: int  #: of `USERS`
    submitted: int  #: epoch seconds UTC
    walltime: int
    run: int
    want: Want


def asked(
    rng: np.random.Generator, places: Sequence[Place], now: int, days: int, count: int
) -> Iterator[Asked]:
    """What *count* submissions ask for in the *days* that end at *now*, by their time."""
    submitted = _times(rng, now, days, count)
    activity = 1 / np.arange(1, len(USERS) + 1)
    user = rng.choice(len(USERS), count, p=activity / activity.sum())
    favourite = np.resize(FAVOURITES, len(USERS))[user]
    anywhere = rng.integers(0, len(CLUSTERS), count)
    place = np.where(rng.random(count) < 0.7, favourite, anywhere)
    there, of_each, cores = np.array([place.resources.shape for place in places])[place].T
    size = np.array(JOB_SIZES)[rng.choice(len(JOB_SIZES), count, p=SIZE_SHARES)]
    # Half of a cluster at most: nobody waits for ever.
    nodes = np.minimum(size[:, 0], there // 2).astype(np.int64)
    units = np.maximum(size[:, 1] * of_each, 1).astype(np.int64)
    capacity = days * DAY * sum(place.resources.size for place in places)
    walltime = _walltimes(rng, nodes * units * cores, capacity)
    run = np.maximum(walltime * rng.beta(1.0, 1.2, count), 5).astype(np.int64)
    columns = (user, submitted, walltime, run, place, nodes, units)
    for u, s, w, r, *want in zip(*(column.tolist() for column in columns), strict=True):
        yield Asked(user=u, submitted=s, walltime=w, run=r, want=(want[0], want[1], want[2]))


def _times(rng: np.random.Generator, now: int, days: int, count: int) -> Ints:
    """When people submit, ascending: by day more than by night, and less on weekends."""
    hour = now - days * DAY + 3_600 * np.arange(days * 24)
    weekday = (hour // DAY + 3) % 7  # 1970 began on a Thursday
    weight = np.array(HOURS)[hour // 3_600 % 24] * np.array(WEEKDAYS)[weekday]
    chosen = rng.choice(hour, count, p=weight / weight.sum())
    return np.sort(chosen + rng.integers(0, 3_600, count))


def _walltimes(rng: np.random.Generator, cores: Ints, capacity: int) -> Ints:
    """Usual walltimes, shorter where the jobs would be too much for so many core·s."""
    usual = np.array(WALLTIMES)
    drawn = usual[rng.choice(len(usual), len(cores), p=WALLTIME_SHARES)]
    most = drawn * min(1.0, MOST_ASKED * capacity / int(np.sum(drawn * cores)))
    return usual[np.maximum(np.searchsorted(usual, most, side="right") - 1, 0)]


# -- the kinds of jobs ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Jobs that have something in common."""

    share: float  #: of all jobs, with those that come with it
    jobs: int = 1  #: how many jobs one of them makes
    types: tuple[str, ...] = ()
    queue: str = "default"
    #: ends, walltime, killed, suspended, killed suspended, launch fails, never, missed
    ending: str = "ends"
    #: what, other than drawn: unit, nodes, clusters, licence, licence alone, interactive
    wants: str = ""
    #: the jobs that come with it: burst, inner, sharing, again
    company: str = ""


#: Killed jobs of these types are submitted again.
IDEMPOTENT = ("besteffort", "idempotent")

PLAIN = Kind(share=0.0)  # all jobs that are of no other kind

#: At least so many there are of each kind, and of each state that lasts at the end.
FEWEST = 3

JOB_KINDS = (
    Kind(share=0.06, wants="interactive"),
    Kind(share=0.06, ending="walltime"),
    Kind(share=0.05, ending="killed"),
    Kind(share=0.03, ending="never"),
    Kind(share=0.01, ending="launch fails"),
    Kind(share=0.003, ending="missed"),
    Kind(share=0.01, ending="suspended"),
    Kind(share=0.003, ending="killed suspended"),
    Kind(share=0.10, queue="besteffort", types=("besteffort",)),
    Kind(share=0.03, queue="besteffort", types=("besteffort",), ending="killed"),
    Kind(
        share=0.01,
        jobs=2,
        queue="besteffort",
        types=IDEMPOTENT,
        ending="killed",
        company="again",
    ),
    Kind(share=0.12, jobs=20, wants="unit", company="burst"),
    Kind(share=0.02, jobs=5, types=("container",), wants="nodes", company="inner"),
    Kind(share=0.01, jobs=2, types=("timesharing=*,*",), wants="unit", company="sharing"),
    Kind(share=0.03, types=("deploy",), wants="nodes"),
    Kind(share=0.01, types=("noop",), wants="nodes"),
    Kind(share=0.003, types=("cosystem",), wants="nodes"),
    Kind(share=0.005, wants="clusters"),
    Kind(share=0.02, wants="licence"),
    Kind(share=0.002, wants="licence alone"),
    Kind(share=0.004, queue="admin", wants="nodes"),
)


def kinds_among(jobs: int) -> list[Kind]:
    """What *jobs* jobs are made of, the plain ones last; each makes `Kind.jobs` of them."""
    special = [
        kind for kind in JOB_KINDS for _ in range(max(round(jobs * kind.share / kind.jobs), FEWEST))
    ]
    return special + [PLAIN] * (jobs - sum(kind.jobs for kind in special))


def wants_of(kind: Kind, drawn: Want, places: Sequence[Place]) -> tuple[Want, ...]:
    """What a job of this kind wants instead of what was drawn."""
    place, nodes, units = drawn
    match kind.wants:
        case "unit":
            return ((place, 1, 1),)
        case "nodes":
            return ((place, nodes, places[place].units),)
        case "clusters":
            other = SEQUOIA if place == BIRCH else place
            return ((BIRCH, 2, places[BIRCH].units), (other, 1, places[other].units))
        case "licence":
            return (drawn, (LICENCE, 1, 1))
        case "licence alone":
            return ((LICENCE, 1, 1),)
        case "interactive":
            return ((INTERACTIVE, 1, min(units, 4)),)
    return (drawn,)
