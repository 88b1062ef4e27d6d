"""The processes of a run: the only room where the stages meet."""

from __future__ import annotations

import os

# Before NumPy, which whatever is imported from here brings along: nothing multiplies matrices, but
# OpenBLAS starts a thread per CPU that first spins for some 100 ms, CPU time which a run that is
# just starting wants for itself; and a process is to have one thread when it forks. The package
# itself does not, since whoever imports the library may well want BLAS.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
