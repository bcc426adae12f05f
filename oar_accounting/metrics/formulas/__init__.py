"""The language of composed metrics. Its grammar is a section of the README. Pure.

A text is read (`reading`) into a tree (`tree`), which is checked (`checking`), computed (`values`)
and written again (`writing`), in units (`units`).
"""
