"""To be imported by programs before anything that imports NumPy: its BLAS then starts no threads.

Nothing here multiplies matrices, but OpenBLAS starts a thread per CPU when it is loaded, which
first spins for some 100 ms: CPU time that a run which is just starting wants for itself. Without
them a process is also single-threaded when it forks. Not done in the package itself, since whoever
imports the library may well want BLAS.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
