"""Tells at the end of a run which OAR it was, and what became of its jobs."""

import pytest

TOLD = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TOLD] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if told := config.stash[TOLD]:
        terminalreporter.section("real OAR")
        for line in told:
            terminalreporter.line(line)
