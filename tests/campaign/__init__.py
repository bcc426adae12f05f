"""Killed, raced, starved: whatever happens to a command, the next one completes and the law holds.

python -m tests.campaign --help
"""
