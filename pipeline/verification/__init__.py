"""Checks an output against its records: its files, and its rows."""
