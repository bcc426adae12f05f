"""What the README says is true: its output, its commands, its settings, its Python."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import oar_accounting
from oar_accounting import Accounting
from oar_accounting.cli import app
from oar_accounting.demo.demo import write_demo
from oar_accounting.demo.past import LABORATORIES
from oar_accounting.karma.settings import read_karma
from oar_accounting.settings.load import load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def run_demo() -> str:
    done = CliRunner().invoke(app.main, ["demo"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def demo_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo_output(demo_directory: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo_directory)
        return run_demo()


def test_the_output_of_the_demo_is_what_the_readme_shows(demo_output: str) -> None:
    shown = [line for line in blocks("text")[0].splitlines() if line.strip() != "..."]
    printed = [line.rstrip() for line in demo_output.splitlines()]
    assert [line for line in shown if line not in printed] == []
    assert len(shown) > 10


def test_the_demo_can_be_run_again(
    demo_output: str, demo_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_directory)
    assert run_demo() == demo_output


def test_what_the_readme_shows_on_the_demonstration_is_what_is_printed(
    demo_output: str, demo_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as a newcomer would; the options of the demonstration are left out."""
    assert demo_output
    monkeypatch.chdir(demo_directory)
    options = ["--url", "sqlite:///oar-accounting-demo/oar.db"]
    options += ["--config", "oar-accounting-demo/accounting.toml"]
    for command, shown in re.findall(
        r"^\$ oar-accounting (.*)\n((?:[^$].*\n)*)", "".join(blocks("console")), re.M
    ):
        done = CliRunner().invoke(app.main, [*options, *shlex.split(command)])
        assert done.exit_code == 0, done.output
        printed = [line.rstrip() for line in done.output.splitlines()]
        wanted = [line for line in shown.splitlines() if line.strip() != "..."]
        assert wanted, command
        assert [line for line in wanted if line not in printed] == [], command


def test_the_demonstration_has_the_laboratories_of_the_readme() -> None:
    assert blocks("csv") == [LABORATORIES]


def test_every_command_and_option_is_in_the_readme() -> None:
    for name in app.PLACES:
        command = app.main.get_command(click.Context(app.main), name)
        assert command is not None
        assert f"`{name}" in README
        for parameter in command.params:
            for option in parameter.opts if name not in ("demo", "verify") else []:
                assert option in README or not option.startswith("--"), f"{name} {option}"


def test_the_metrics_of_the_readme_are_settings_that_load(tmp_path: Path) -> None:
    file = tmp_path / "accounting.toml"
    for text in blocks("toml"):
        tomllib.loads(text)
        file.write_text(text, encoding="utf-8")
        given = load_settings(config=file, url="sqlite:///x", environ={})
        assert given.metrics
        if given.karma is not None:
            assert read_karma(given.karma, "README.md", [each.name for each in given.metrics])


def test_the_karma_that_is_calculated_by_hand_is_the_one_that_is_printed() -> None:
    by_hand = README[README.index("By hand, for the job above:") :]
    figures = re.findall(r"([\d,]+\.\d) (?:of ([\d,]+\.\d) )?(core|gpu)·h", by_hand)
    (cores, all_cores, _), (gpus, all_gpus, _), (project, _, _) = (
        [number.replace(",", "") for number in each] for each in figures[:3]
    )
    of = float(all_cores)
    user = 2 * float(cores) / of + float(gpus) / float(all_gpus)
    karma = user + (float(project) / of - 0.4)
    (printed,) = re.findall(r"^Job 5015 .*: karma ([\d.]+),", README, re.M)
    assert f"{karma:.3f}" == printed
    assert f"= {printed}." in by_hand


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = write_demo(tmp_path)
    conf = tmp_path / "oar.conf"
    conf.write_text(f'DB_TYPE="sqlite"\nDB_BASE_FILE="{url.removeprefix("sqlite:///")}"\n')
    with Accounting.open(oar_conf=conf) as accounting:
        accounting.init()
    (example,) = blocks("python")
    assert 'oar_conf="/etc/oar/oar.conf"' in example
    exec(example.replace("/etc/oar/oar.conf", str(conf)), {})
    assert "chen" in capsys.readouterr().out


def test_every_folder_has_its_place_in_the_readme() -> None:
    package = Path(oar_accounting.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    table = README[README.index("| folder |") :]
    assert {folder for folder in folders if f"`{folder}`" not in table} == set()
