"""Let users see our karma when the scheduler has gone: it writes its own messages until then.

Only the standard library is imported: a scheduler must be able to import this whatever is broken.
"""

import os
import sys

#: The processes that have done so: one that was forked from such a one has not.
_started: list[int] = []


def after_this_process(oar_conf: str | None, config: str | None, site: str | None) -> None:
    """Start ``show-karma``, once, to wait for the end of this process. Raises OSError."""
    if os.getpid() in _started:
        return
    options = {"--oar-conf": oar_conf, "--config": config, "--site": site}
    given = [word for key, value in options.items() if value is not None for word in (key, value)]
    # With the scheduler's own variables, which may say where this library is; but not from where
    # the scheduler happens to be.
    ours = (sys.executable, "-P", "-m", "oar_accounting.cli", *given)
    nothing = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
    os.posix_spawn(
        sys.executable,
        (*ours, "show-karma", "--after", str(os.getpid()), "--syslog"),
        os.environ,
        file_actions=nothing,
        setsid=True,
    )
    _started.append(os.getpid())
