"""What entry points of a library in OAR 3's own environment name, until stubs take their place.

The names are a contract with metadata that sites have installed.
"""

from oar_accounting.stubs.oar3 import count_usage, sort_jobs

__all__ = ["count_usage", "sort_jobs"]
