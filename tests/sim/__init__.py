"""Deterministic simulation of a whole cluster in one thread: the seed alone replays a run.

The real replica, filters, journal, state machine and the installed PySyncObj, on a virtual
clock, a network and disks that fail. ``python -m tests.sim --help`` runs many seeds.
"""
