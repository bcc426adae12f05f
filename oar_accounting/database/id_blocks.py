"""Ids in blocks: a range where they lie close together, a short list where they do not.

A list of thousands of ids costs a planner more than the rows, and a range over a few ids far
apart reads everything between them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement

from oar_accounting.core.columns import Ints

#: Jobs looked at in one transaction.
BLOCK = 10_000
#: Jobs whose ids are too far apart for a range.
SPARSE_BLOCK = 500


def id_blocks(ids: Ints) -> Iterator[Ints]:
    """Ascending ids cut into blocks that are cheap to look up with `among`."""
    at = 0
    while at < len(ids):
        block = ids[at : at + BLOCK]
        if not is_dense(block):
            block = block[:SPARSE_BLOCK]
        yield block
        at += len(block)


def among(ids: Ints, values: ColumnElement[Any]) -> ColumnElement[bool]:
    """True for the ids of a block, and for some between them where they lie close together."""
    if is_dense(ids):
        return values.between(int(ids[0]), int(ids[-1]))
    return values.in_(ids.tolist())


def is_dense(ids: Ints) -> bool:
    """True where the ids lie so close together that a range finds them best."""
    return int(ids[-1]) - int(ids[0]) < 4 * len(ids)


def short_lists(ids: Ints) -> Iterator[list[int]]:
    """The different ids in lists that are short enough for a statement."""
    every = np.unique(ids).tolist()
    for at in range(0, len(every), SPARSE_BLOCK):
        yield every[at : at + SPARSE_BLOCK]
