"""Manages the output folder: file names, lock, records, ledger, resume and commit."""
