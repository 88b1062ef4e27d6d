from __future__ import annotations

from ingestor.model import errors
from ingestor.model.errors import ExitCode, IngestorError


def test_every_kind_of_failure_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, IngestorError)
    ]
    # A job that is there already is a stream's error, a folder in use a configuration's; each ends
    # as its kind does.
    special = {errors.JobExistsError, errors.PlaceInUseError}
    assert {kind for kind in kinds if kind.__base__ not in (IngestorError, Exception)} == special
    codes = [kind.exit_code for kind in kinds if kind not in special]
    assert len(set(codes)) == len(codes)
    assert ExitCode.OK not in codes
    assert errors.JobExistsError.exit_code == ExitCode.STREAM
    assert errors.PlaceInUseError.exit_code == ExitCode.CONFIGURATION


def test_signals_end_with_the_codes_that_shells_give_them() -> None:
    assert (ExitCode.INTERRUPTED, ExitCode.TERMINATED) == (128 + 2, 128 + 15)
