"""Uses private names of libraries, and replaces some of their functions.

For each use, a test fails when a release of the library changes the name or function. `KEYJOIN_COMPAT=off` in the
environment switches all of these uses off, see `transforms.compat`. A run then gives the same result, is slower, and
prints more.
"""
