"""The files that pip puts beside the library: of ``hooks`` and of ``sql``."""

import sysconfig
from pathlib import Path


def shared(name: str) -> Path:
    """Where one of them is, also in a checkout."""
    installed = Path(sysconfig.get_path("data"), "share", "oar-accounting")
    checkout = Path(__file__).parents[2]
    return (installed if installed.exists() else checkout) / name
