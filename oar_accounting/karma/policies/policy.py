"""What a site may ask of karma: the policy and its terms, as the settings declare them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from oar_accounting.karma.policies.weights import Flat, Weighting

#: The name that stands for everybody who is not named.
EVERYBODY = "*"

#: A level of a tree: a project under its parents, up to the topmost.
PROJECTS = "projects"
#: The levels whose names are those of projects.
PROJECT_LEVELS = ("project", PROJECTS)

AMOUNTS = ("used", "asked")
SCOPES = ("site", "queue")
OPEN_JOBS = ("used", "held", "none")
WINDOW_RULES = ("oar2", "oar3")
SOURCES = ("oar", "totals")

#: OAR's own SCHEDULER_FAIRSHARING_WINDOW_SIZE, seconds.
MONTH = 30 * 86_400

#: What a level says of a name: its shares, None for those of the node above it, or either by the
#: name of the node above it.
Share = float | None
Shares = Mapping[str, Share | Mapping[str, Share]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Which usage counts, and how much of it."""

    amount: str = "used"  #: or ``asked``
    scope: str = "site"  #: of all queues together, or each ``queue`` for itself
    weighting: Weighting = field(default_factory=lambda: Flat(length=MONTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """``weight × (share of usage - target)``."""

    by: str  #: user, project, queue, the site's dimension, or an attribute
    metric: str
    weight: float = 1.0
    counted: Counted = field(default_factory=Counted)
    targets: Mapping[str, float] = field(default_factory=dict)  #: fractions of 1

    def target(self, name: str) -> float:
        """The target of a name; 0 where neither it nor everybody has one."""
        return self.targets.get(name, self.targets.get(EVERYBODY, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The sum of terms, as OAR's own."""

    name = "linear"
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Shares along a tree; where *fair*, siblings are only ever compared with each other."""

    fair: bool
    levels: tuple[str, ...]
    metrics: Mapping[str, float]  #: the weight of each metric's share of usage
    counted: Counted = field(default_factory=Counted)
    shares: Mapping[str, Shares] = field(default_factory=dict)  #: by level and name

    @property
    def name(self) -> str:
        """As the settings name it."""
        return "fair_tree" if self.fair else "tree"

    def share(self, level: str, name: str, above: str) -> Share:
        """The shares of a name under the node *above*; None: that node's own. 1 if not said."""
        of_level = self.shares.get(level, {})
        said = of_level.get(name, of_level.get(EVERYBODY, 1.0))
        if isinstance(said, Mapping):
            return said.get(above, said.get(EVERYBODY, 1.0))
        return said

    def declares(self, level: str, name: str, above: str) -> bool:
        """Whether the settings name it there, other than as everybody."""
        of_level = self.shares.get(level, {})
        if name == EVERYBODY or name not in of_level:
            return False
        said = of_level[name]
        return not isinstance(said, Mapping) or above in said or EVERYBODY in said


@dataclass(frozen=True, slots=True, kw_only=True)
class Dominant:
    """The largest of the shares of what the machine could give."""

    name = "dominant"
    by: str
    metrics: tuple[str, ...]
    counted: Counted = field(default_factory=Counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """OAR's own, from the SCHEDULER_FAIRSHARING keys of ``oar.conf``."""

    name = "oar"
    window_rule: str = "oar2"  #: or ``oar3``
    source: str = "oar"  #: OAR's own table ``accounting``, or our ``totals`` of *resource*


Policy = Linear | Shared | Dominant | Stock


@dataclass(frozen=True, slots=True, kw_only=True)
class Karma:
    """How the site orders its waiting jobs."""

    policy: Policy = field(default_factory=Stock)
    open_jobs: str = "used"  #: what jobs count that have not ended: used so far, held, or none
