"""Corrections by hand: signed amounts beside the totals, never edited, only countered.

What people give (`input`) is posted (`post`), to an account or by a filter on jobs (`by_job`), and
is read again (`stored`).
"""
