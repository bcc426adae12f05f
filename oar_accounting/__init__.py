"""Exact accounting of OAR jobs in any number of metrics."""
