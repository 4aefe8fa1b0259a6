"""The output folder: file names, lock, records, ledger, resume, commit."""
