"""Stubs: the files that OAR calls, written where pip does not replace them.

During an upgrade, pip removes files before it writes new ones, and OAR stops all queues when what
it calls is missing. So the files that OAR calls lie outside every environment, each is replaced at
once by a renaming, and each goes on without the library. OAR 3 finds its one by metadata in its own
environment.
"""
