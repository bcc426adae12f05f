"""The command line: no SQL, and no arithmetic.

Installed hooks import ``main`` from here, whatever else this room comes to hold; so no module of it
may be called ``main``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oar_accounting.cli.app import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    # The other command that users have does not need it.
    if name == "main":
        from oar_accounting.cli.app import main

        return main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
