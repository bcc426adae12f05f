"""The language of composed metrics. Its grammar is a section of the README. Pure.

A text is read (`parser`) into a tree (`tree`), which is checked (`check`), computed (`evaluate`)
and written again (`printer`), in units (`units`).
"""
