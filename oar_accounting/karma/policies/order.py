"""The place of every job: the lowest karma first, of equal ones the lowest job id."""

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.karma.policies.weights import Floats


def order(karma: Floats, job_id: Ints) -> Ints:
    """The row numbers of the jobs, first in line first; infinite karma is last.

    Job ids differ, so there is one order, whatever that of the rows. Raises ValueError for a karma
    that is not a number.
    """
    if nameless := job_id[np.isnan(karma)].tolist():
        raise ValueError(f"the karma of job {nameless[0]} is not a number")
    return np.lexsort((job_id, karma))
