"""Prints messages and reports, defines exit codes, and handles signals."""
