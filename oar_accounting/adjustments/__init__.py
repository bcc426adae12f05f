"""Corrections by hand: signed amounts beside the totals, never edited, only countered.

What people give (`given`) is posted (`posting`), to an account or by a filter on jobs (`jobs`), and
stands (`standing`).
"""
