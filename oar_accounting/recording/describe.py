"""What OAR tells of jobs beside what they asked for and used: name, exit code, nodes, reservation.

It is written with the job. Where the amounts of a job stay as they are recorded, because it was
purged or OAR has lost its resources, it is written alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from oar_accounting.core.columns import JobRows, located
from oar_accounting.core.node_lists import expand
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.reading import DESCRIPTION, JobRecords


def with_recorded(nodes: Mapping[int, str], known: JobRecords) -> dict[int, str]:
    """The same, but the recorded ones of jobs of which OAR has some of them only, or none."""
    recorded = zip(known.job_id.tolist(), known.nodes.tolist(), strict=True)
    kept = {
        job: listed
        for job, listed in recorded
        if listed and nodes.get(job, listed) != listed and expand(nodes[job]) < expand(listed)
    }
    return {**nodes, **kept}


def description(rows: JobRows, nodes: Mapping[int, str]) -> dict[str, Any]:
    """The columns of `DESCRIPTION`; *nodes* has those of all the jobs."""
    return {
        "name": rows.name,
        "exit_code": rows.exit_code,
        "nodes": np.array([nodes[job] for job in rows.job_id.tolist()], object),
        "reservation": rows.reservation,
    }


def describe(book: Book, rows: JobRows, known: JobRecords, nodes: Mapping[int, str]) -> None:
    """Write it of the recorded ones among the jobs, where it differs from what is *known*."""
    at, there = located(rows.job_id, known.job_id)
    rows, jobs = rows.take(there), known.take(at[there])
    # Of what was assigned nothing the walltime, too, is no amount.
    walltime = np.where(rows.moldable == 0, rows.walltime, jobs.walltime)
    told = description(rows, nodes)
    # What was not purged stays because OAR has lost resources of it, and so maybe nodes.
    told["nodes"] = np.where(jobs.closed == schema.PURGED_JOB, told["nodes"], jobs.nodes)
    found = replace(jobs, walltime=walltime, **told)
    differs = np.zeros(len(rows), np.bool_)
    for name in ("walltime", *DESCRIPTION):
        differs |= getattr(found, name) != getattr(jobs, name)
    if differs.any():
        book.describe(found.take(differs))
