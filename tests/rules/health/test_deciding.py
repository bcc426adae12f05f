"""Whether OAR's settings let our karma decide: in whole, in half, or not at all."""

import importlib
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from oar_accounting.health.deciding import Deciding, look
from oar_accounting.health.records import Finding
from oar_accounting.settings.oar_conf import read_oar_conf
from oar_accounting.stubs.oar3 import Config
from tests.oar3_site import oar3

SCHEDULER = "oar_sched_gantt_with_timesharing_and_fairsharing"
POLICY = f"karma_then_{SCHEDULER}"


class Place:
    """The files of an OAR server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "oar.conf"
        self.schedulers = root / "usr/lib/oar/schedulers"
        self.schedulers.mkdir(parents=True)
        self.conf.touch()

    def look(
        self, conf: str = "", policies: dict[str, str] | None = None
    ) -> tuple[Finding, Deciding | None]:
        """The one thing that is found, where oar.conf says this."""
        if conf:
            self.conf.write_text(conf)
        findings, deciding = look(
            read_oar_conf(self.conf), self.conf, policies or {"default": "kamelot"}, self.root
        )
        (found,) = findings
        assert found.subject == "order of jobs"
        return found, deciding

    def mended(self, found: Finding) -> tuple[Finding, Deciding | None]:
        """What is found when the command that was named has run."""
        subprocess.run(found.mend, shell=True, check=True, timeout=60)
        return self.look()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    user = SimpleNamespace(pw_uid=os.geteuid(), pw_gid=os.getegid())
    monkeypatch.setattr(pwd, "getpwnam", lambda _: user)
    return Place(tmp_path)


# -- OAR 3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("conf", ["", "JOB_PRIORITY=FIFO\n", "#CUSTOM_JOB_SORTING=accounting\n"])
def test_nothing_is_configured(place: Place, conf: str) -> None:
    found, deciding = place.look(conf)
    assert (found.level, found.said, deciding) == ("good", "OAR's own order decides", None)


def test_our_order(place: Place) -> None:
    found, deciding = place.look(
        "JOB_PRIORITY='CUSTOM' # not FIFO\nCUSTOM_JOB_SORTING=\"accounting\"\n"
        'CUSTOM_JOB_SORTING_CONFIG=\'{"limit": 2, "config": "/etc/x.toml"}\'\n'
        # OAR 3 has no use for sums then, and nobody is told of it.
        "EXTRA_METASCHED=accounting\n"
    )
    assert (found.level, found.mend) == ("good", "")
    assert found.said == "that of our karma: OAR 3's CUSTOM_JOB_SORTING is ours"
    assert deciding == Deciding(given=Config(limit=2, config="/etc/x.toml"))


@pytest.mark.parametrize("priority", ["FAIRSHARE", "MULTIFACTOR"])
def test_our_sums(place: Place, priority: str) -> None:
    found, deciding = place.look(
        f"JOB_PRIORITY={priority}\nEXTRA_METASCHED=accounting\n"
        'EXTRA_METASCHED_CONFIG=\'{"metric": "core"}\'\n'
    )
    assert found.level == "good"
    assert found.said == f"that of {priority} of OAR 3, whose karma is made of our sums"
    assert deciding == Deciding(given=Config(metrics={"core": 1}))


@pytest.mark.parametrize("priority", ["", "JOB_PRIORITY=FIFO\n", "JOB_PRIORITY=custom\n"])
def test_an_order_that_nobody_asks_for(place: Place, priority: str) -> None:
    found, deciding = place.look(f"CUSTOM_JOB_SORTING=accounting\n{priority}")
    assert (found.level, deciding) == ("warning", None)
    assert found.said.startswith("CUSTOM_JOB_SORTING is accounting, but not asked: JOB_PRIORITY")
    assert ("'custom', which OAR 3 does not know" in found.said) == ("custom" in priority)
    found, deciding = place.mended(found)
    assert (found.level, deciding) == ("good", Deciding(given=Config()))


@pytest.mark.parametrize("priority", ["FAIRSHARING", "FIFO"])
def test_sums_that_nobody_asks_for(place: Place, priority: str) -> None:
    """FAIRSHARING is what OAR 3's own oar.conf calls it, and FAIRSHARE what it looks for."""
    found, deciding = place.look(
        f"JOB_PRIORITY={priority}\nEXTRA_METASCHED=accounting\n"
        'EXTRA_METASCHED_CONFIG=\'{"metrics": {"core": 1}}\'\n'
    )
    assert (found.level, deciding) == ("warning", None)
    assert "EXTRA_METASCHED is accounting, but nobody asks for its sums" in found.said
    assert ("so that jobs start in the order of their numbers" in found.said) == (
        priority == "FAIRSHARING"
    )
    assert place.mended(found)[0].level == "good"


def test_sums_that_do_not_reach_another_process(place: Place) -> None:
    found, deciding = place.look(
        "JOB_PRIORITY=FAIRSHARE\nEXTRA_METASCHED=accounting\nMETASCHEDULER_MODE=external\n"
        'EXTRA_METASCHED_CONFIG=\'{"metric": "core"}\'\n'
    )
    assert (found.level, deciding) == ("warning", None)
    assert found.said.endswith("nevertheless, because METASCHEDULER_MODE is external")
    assert place.mended(found)[1] == Deciding(given=Config(metrics={"core": 1}))


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (
            "JOB_PRIORITY=CUSTOM\nCUSTOM_JOB_SORTING=accounting\nCUSTOM_JOB_SORTING_CONFIG=42\n",
            "CUSTOM_JOB_SORTING_CONFIG must be a JSON object like {\"limit\": 5}, not '42'; OAR's "
            "own order decides in every round",
        ),
        (
            "JOB_PRIORITY=CUSTOM\nCUSTOM_JOB_SORTING=accounting\n"
            'CUSTOM_JOB_SORTING_CONFIG=\'{"conf": "x"}\'\n',
            "unknown key 'conf'; known keys are limit, last_answer, config",
        ),
        (
            "JOB_PRIORITY=FAIRSHARE\nEXTRA_METASCHED=accounting\n",
            'EXTRA_METASCHED_CONFIG: "metrics" must be an object',
        ),
    ],
)
def test_json_that_cannot_be_used(place: Place, conf: str, expected: str) -> None:
    found, deciding = place.look(conf)
    assert found.level == "bad"
    assert found.said.startswith(f"{place.conf}: ")
    assert expected in found.said
    assert found.mend == f"editor {place.conf}"
    # It is asked for all the same, and every round is one that was not ours.
    assert deciding is not None


def test_custom_without_anything_to_ask_starts_no_job(place: Place) -> None:
    found, deciding = place.look("JOB_PRIORITY=CUSTOM\n")
    assert (found.level, deciding) == ("bad", None)
    assert "OAR 3 starts no job at all" in found.said
    assert place.mended(found)[1] == Deciding(given=Config())


def test_the_order_of_others(place: Place) -> None:
    found, deciding = place.look("JOB_PRIORITY=CUSTOM\nCUSTOM_JOB_SORTING=theirs\n")
    assert (found.level, deciding) == ("good", None)
    assert found.said == f"not ours: CUSTOM_JOB_SORTING of {place.conf} is theirs"


# -- OAR 2 ------------------------------------------------------------------------------------


def link(place: Place, *names: str) -> None:
    """Put schedulers where OAR 2 has them."""
    for name in names:
        (place.schedulers / name).write_text("#!/bin/sh\n")
        (place.schedulers / name).chmod(0o755)


def test_queues_that_have_our_policy(place: Place) -> None:
    link(place, POLICY, SCHEDULER)
    policies = {"admin": SCHEDULER, "default": POLICY, "night": POLICY}
    found, deciding = place.look(policies=policies)
    assert (found.level, found.said) == (
        "good",
        "that of our karma in these queues of OAR 2: default, night",
    )
    assert deciding == Deciding(queues=("default", "night"))


def test_a_scheduler_that_is_not_there(place: Place) -> None:
    link(place, SCHEDULER)
    # A link may lead to nowhere.
    (place.schedulers / POLICY).symlink_to("/no/such/file")
    found, deciding = place.look(policies={"default": POLICY})
    assert found.level == "bad"
    assert found.said.startswith(f"{place.schedulers / POLICY} is to schedule default, and is not")
    assert deciding == Deciding(queues=("default",))
    assert found.mend == "oar-accounting stubs install"


def test_the_scheduler_behind_it_is_not_there(place: Place) -> None:
    link(place, POLICY)
    found, _ = place.look(policies={"default": POLICY})
    assert found.level == "bad"
    assert f"runs {SCHEDULER}, which is not there: no job of default starts" in found.said


def test_a_scheduler_that_oar_may_not_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    link(place, POLICY, SCHEDULER)
    (place.schedulers / POLICY).chmod(0o600)
    found, _ = place.look(policies={"default": POLICY})
    assert found.level == "bad"
    assert "the user oar may not run" in found.said
    subprocess.run(found.mend, shell=True, check=True, timeout=60)
    assert place.look(policies={"default": POLICY})[0].level == "good"


def test_a_scheduler_that_no_queue_has(place: Place) -> None:
    link(place, POLICY, SCHEDULER)
    found, deciding = place.look()
    assert (found.level, deciding) == ("good", None)
    assert found.said == (
        f"OAR's own order decides: {place.schedulers / POLICY} is there, but no queue has that "
        "policy"
    )


def test_queues_that_cannot_be_read(place: Place) -> None:
    findings, deciding = look({}, place.conf, None, place.root)
    assert [each.said for each in findings] == ["OAR's own order decides"]
    assert deciding is None
    link(place, POLICY, SCHEDULER)
    findings, deciding = look({}, place.conf, None, place.root)
    assert deciding == Deciding(is_sure=False)
    assert "which queues have that policy is not known" in findings[0].said


# -- OAR 3 itself -----------------------------------------------------------------------------


@pytest.mark.oar3
@pytest.mark.parametrize(
    "conf",
    [
        "JOB_PRIORITY=CUSTOM\nCUSTOM_JOB_SORTING=accounting\n",
        "JOB_PRIORITY=\"CUSTOM\" # 'x'\n CUSTOM_JOB_SORTING = 'accounting\n",
        "JOB_PRIORITY=custom\nCUSTOM_JOB_SORTING=accounting\n",
        "CUSTOM_JOB_SORTING=accounting\n",
        "JOB_PRIORITY=CUSTOM\nCUSTOM_JOB_SORTING=theirs\n",
        "JOB_PRIORITY=FAIRSHARING\nCUSTOM_JOB_SORTING=accounting\nEXTRA_METASCHED=accounting\n",
    ],
)
def test_oar_3_asks_where_it_is_said_to(
    place: Place, monkeypatch: pytest.MonkeyPatch, conf: str
) -> None:
    """Its scheduler, with what it reads of the same file."""
    asked: list[str] = []

    def found(_: str, name: str) -> Callable[..., list[int]]:
        asked.append(name)
        return lambda *given: [2, 1]

    configuration = oar3().configuration.Configuration()
    place.conf.write_text(conf)
    configuration.load_file(str(place.conf))
    kamelot = importlib.import_module("oar.kao.kamelot")
    monkeypatch.setattr(kamelot, "find_plugin_function", found)
    order = kamelot.jobs_sorting(None, configuration, ["default"], 0, [1, 2], {}, None)
    findings, deciding = look(read_oar_conf(place.conf), place.conf, {}, place.root)
    assert (asked == ["accounting"]) == (deciding is not None)
    assert (order == [1, 2]) == (not asked)
    assert {each.level for each in findings} == {"good" if asked else "warning"}
