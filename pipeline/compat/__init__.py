"""Uses of names that libraries keep private, and of functions of theirs that keyjoin replaces.

Each has a test that fails when a release of the library changes it. `KEYJOIN_COMPAT=off` in the environment switches
all of them off, see `transforms.compat`: a run then gives the same result, more slowly, and prints more.
"""
