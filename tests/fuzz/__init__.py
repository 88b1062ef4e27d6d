"""Hostile inputs for every parser: made from sound samples by seed and number, run in processes.

``python -m tests.fuzz packed --inputs 100000`` runs one target, ``--seed S --index I`` one input
of it, ``--hex FILE`` an input that was saved. `targets` says what is run, `mutator` how an input
comes about, `worker` what is watched while it runs, and `campaign` what survives a worker's death.
"""
