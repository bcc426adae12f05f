"""OAR 2's names that stand encoded twice: recorded as OAR shows them, and never merged unsaid."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting
from oar_accounting.health.records import Finding
from tests.small_oar import DAY, NOW, T0, Recorded, SmallOar, opened, stopped_clock

TWICE, MEANT = "Ã©tÃ©", "été"
DECODED = 'names = "double_encoded"\n'
WHOLE = 8 * 3600
KARMA = '[karma]\npolicy = "linear"\nwindow = "30d"\n[[karma.terms]]\nby = "user"\n'


@pytest.fixture
def oar(engine: Engine) -> Iterator[SmallOar]:
    """An OAR 2 with a job of été's in the project noël, and one of bob's."""
    with stopped_clock():
        oar = SmallOar(engine)
        oar.add_job(user=TWICE, project="noÃ«l")
        oar.add_job(user="bob")
        yield oar


def used(accounting: Accounting, key: str = "user") -> dict[str, int]:
    """What each user has used."""
    return {name: amounts[1] for name, amounts in Recorded(accounting).by(key).items()}


def test_names_are_recorded_as_they_stand_or_as_oar_shows_them(
    oar: SmallOar, engine: Engine
) -> None:
    stored, decoded = opened(engine, site="stored"), opened(engine, DECODED, site="decoded")
    for each in (stored, decoded):
        report = each.catch_up()
        assert (report.done, report.problems, report.notices) == (2, (), ())
        assert (each.catch_up(full=True).changed, each.verify()) == (0, [])
    assert used(stored) == {TWICE: WHOLE, "bob": WHOLE}
    assert used(decoded) == {MEANT: WHOLE, "bob": WHOLE}
    assert used(decoded, "project") == {"noël": WHOLE, "default": WHOLE}


def test_a_rebuild_switches_there_and_back(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    decoded = opened(engine, DECODED)
    (notice,) = decoded.catch_up().notices
    assert notice == (
        "names is 'double_encoded' in the settings, 'stored' as recorded: "
        "oar-accounting rebuild --from-oar"
    )
    assert used(decoded) == {TWICE: WHOLE, "bob": WHOLE}
    decoded.rebuild(from_oar=True)
    assert used(decoded) == {MEANT: WHOLE, "bob": WHOLE}
    assert (decoded.catch_up().notices, decoded.verify()) == ((), [])
    opened(engine).rebuild(from_oar=True)
    assert used(accounting) == {TWICE: WHOLE, "bob": WHOLE}


def test_all_terms_are_recorded_and_read_again(oar: SmallOar, engine: Engine) -> None:
    toml = DECODED + 'grace = 60\ncontainers = "both"\nprofile = "classic"\n'
    opened(engine, toml).catch_up()
    assert opened(engine, toml).catch_up().notices == ()
    told = [notice.split()[0] for notice in opened(engine).catch_up().notices]
    assert sorted(told) == ["containers", "grace", "names", "profile"]


def test_two_spellings_are_told_where_they_count_as_one(oar: SmallOar, engine: Engine) -> None:
    apart = opened(engine, site="apart")
    together = opened(engine, DECODED)
    oar.add_job(user=MEANT)
    # That a project is called like a user merges nothing.
    oar.add_job(user="bob", project=MEANT)
    assert apart.catch_up().notices == ()
    assert used(apart) == {TWICE: WHOLE, MEANT: WHOLE, "bob": 2 * WHOLE}
    told = "OAR has names in two spellings, which count as one: user 'été' ('Ã©tÃ©' and 'été')"
    assert together.catch_up().notices == ()
    for report in (together.catch_up(full=True), together.rebuild(from_oar=True)):
        assert report.notices == (told,)
    assert used(together) == {MEANT: 2 * WHOLE, "bob": 2 * WHOLE}
    assert [each.said for each in findings(together, "settings")] == [told]
    (finding,) = findings(apart, "names")
    assert "it has user 'été' as well, and the two would count as one" in finding.said


def test_who_was_forgotten_stays_so_when_names_are_recorded_as_stored_again(
    oar: SmallOar, engine: Engine
) -> None:
    accounting = opened(engine, DECODED)
    accounting.catch_up()
    pseudonym = accounting.forget_user(MEANT)
    stored = opened(engine)
    stored.rebuild(from_oar=True)
    assert pseudonym in used(stored)
    assert {TWICE, MEANT}.isdisjoint(used(stored))


def test_a_name_without_the_accent_is_another(oar: SmallOar, engine: Engine) -> None:
    for user in ("ete", "ETE", MEANT):
        oar.add_job(user=user)
    accounting = opened(engine, DECODED)
    (told,) = accounting.catch_up(full=True).notices
    assert told.endswith("user 'été' ('Ã©tÃ©' and 'été')")
    assert used(accounting) == {MEANT: 2 * WHOLE, "ete": WHOLE, "ETE": WHOLE, "bob": WHOLE}


def test_karma_knows_who_waits(oar: SmallOar, engine: Engine) -> None:
    for user in (TWICE, "bob"):
        oar.add_job(user=user, state="Waiting", start=0, moldable=False)
    targets = f'metric = "resource"\ntargets = {{ "{MEANT}" = 1 }}\n'
    accounting = opened(engine, DECODED + KARMA + targets)
    accounting.catch_up()
    oar.add_job(user=TWICE, start=NOW - DAY, state="Running")
    before = {job.user: job.karma for job in accounting.karma(now=NOW)}
    assert before[MEANT] > before["bob"]
    accounting.catch_up()
    assert {job.user: job.karma for job in accounting.karma(now=NOW)} == before


def test_who_was_forgotten_stays_so(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    accounting.forget_user(TWICE)
    decoded = opened(engine, DECODED)
    decoded.rebuild(from_oar=True)
    assert len(used(decoded)) == 2
    assert not {TWICE, MEANT} & set(used(decoded))


def findings(accounting: Accounting, subject: str) -> list[Finding]:
    """What the doctor says on a subject."""
    return [each for each in accounting.doctor().findings if each.subject == subject]


def test_the_doctor_tells_of_them_with_the_setting_that_helps(
    oar: SmallOar, engine: Engine
) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    (finding,) = findings(accounting, "names")
    assert finding.level == "warning"
    assert "project 'noÃ«l' as 'noël', user 'Ã©tÃ©' as 'été'" in finding.said
    assert 'names = "double_encoded" in small_oar.toml' in finding.said
    assert finding.mend == "editor small_oar.toml && oar-accounting rebuild --from-oar"
    (finding,) = findings(opened(engine, DECODED), "names")
    assert finding.mend == "oar-accounting rebuild --from-oar"
    opened(engine, DECODED).rebuild(from_oar=True)
    assert findings(opened(engine, DECODED), "names") == []


def test_the_doctor_says_nothing_where_names_are_as_meant(engine: Engine) -> None:
    with stopped_clock():
        oar = SmallOar(engine)
        oar.add_job(user=MEANT, start=T0)
        assert findings(opened(engine), "names") == []
