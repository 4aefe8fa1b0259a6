"""Fixtures of the rehearsals."""

from tests.cloud.rehearsed import cloud, expected, place, programs, rehearsal

__all__ = ["cloud", "expected", "place", "programs", "rehearsal"]
