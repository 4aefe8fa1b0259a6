"""Checks the files and rows of an output against the records of its run."""
