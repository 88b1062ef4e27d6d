"""What a person types: one parser, one subcommand a module, what is printed, exit codes."""

from __future__ import annotations

import ingestor.runtime  # noqa: F401 (before NumPy: see there)
