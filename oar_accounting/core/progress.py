"""How far a long task has come."""

from collections.abc import Callable

#: Called now and then with how much is done, and of how much.
Progress = Callable[[int, int], None]
