"""Karma, the generalised fair share: usage and shares in, an order of the jobs out. Pure.

The lowest karma is first in line, as in OAR. Amounts are weighted by time (`weights`) and added up
for each entity (`decay`). From that a policy makes karma: OAR's own linear one (`linear`), one
along a tree of shares (`shares_tree`, `fair_tree`), or that of the dominant metric (`dominant`).
`order` gives the place of every job.
"""
