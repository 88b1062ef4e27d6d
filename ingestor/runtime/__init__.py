"""Processes: the only place where the stages meet."""
