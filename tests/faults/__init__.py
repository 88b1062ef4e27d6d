"""Faults from a seed against real processes and servers, and an account of every event.

``python -m tests.faults live --seconds 480 --seed 7`` kills, stops and freezes the processes of a
live run, its server and its vendor; ``replay`` does so to replays until each is complete. What is
judged comes from plain second readings of the vendor's log, journal, stream and statuses.
"""
