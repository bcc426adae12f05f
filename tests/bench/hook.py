"""The hook at a job's end beside the least that a shell costs: from exec to exit, as OAR waits."""

import fcntl
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import click

HOOK = Path(__file__).parents[2] / "hooks" / "server_epilogue"
SHELL = ("/bin/sh", "-c", "true")
CALL = (str(HOOK), "42")
#: In which the worker of a run that starts one ends, so that it does not slow the next run.
PAUSE = 0.03

Figures = dict[str, float]


@click.command("hook")
@click.option("--runs", default=300, type=click.IntRange(1), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def hook(runs: int, as_json: bool) -> None:
    """The hook against ``/bin/sh -c true``, in turns: what OAR waits for at a job's end."""
    figures = measured(runs)
    click.echo(json.dumps(figures, indent=2) if as_json else text_of(figures))


def measured(runs: int) -> Figures:
    """Median seconds of each, and how many times the shell's the hook's are."""
    seconds: dict[str, list[float]] = {"shell": [], "starting": [], "waiting": []}
    with tempfile.TemporaryDirectory(prefix="oar-bench-", ignore_cleanup_errors=True) as name:
        starting, waiting = (Path(name, each) for each in ("starting", "waiting"))
        starting.mkdir()
        waiting.mkdir()
        with (waiting / "waiting").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in range(runs):
                seconds["shell"].append(_run(SHELL, waiting))
                seconds["waiting"].append(_run(CALL, waiting))
                seconds["starting"].append(_run(CALL, starting))
    medians = {name: median(each) for name, each in seconds.items()}
    ratios = {f"{name}_ratio": medians[name] / medians["shell"] for name in ("starting", "waiting")}
    return {"runs": runs, **medians, **ratios}


def _run(command: tuple[str, ...], state: Path) -> float:
    environment = {
        **os.environ,
        "OAR_ACCOUNTING_STATE": str(state),
        "OAR_ACCOUNTING_DELAY": "0",
        "OAR_ACCOUNTING_PYTHON": "/bin/true",
    }
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    process = os.posix_spawn(command[0], command, environment, file_actions=quiet)
    # It returns when the program has been loaded: what Python needs to fork does not count.
    began = time.perf_counter()
    os.waitpid(process, 0)
    taken = time.perf_counter() - began
    time.sleep(PAUSE)
    return taken


def text_of(figures: Figures) -> str:
    """The figures for people."""
    lines = [f"from exec to exit, medians of {figures['runs']} runs in turns"]
    for label, name in (
        ("/bin/sh -c true", "shell"),
        ("hook that starts a worker", "starting"),
        ("hook while a worker waits", "waiting"),
    ):
        ratio = figures.get(f"{name}_ratio")
        times = "" if ratio is None else f"  {ratio:.2f} times the shell; goal <= 3"
        lines.append(f"  {label:<26}  {1000 * figures[name]:.2f} ms{times}")
    return "\n".join(lines)
