"""Finds, reads and writes files on local file systems and in object stores."""
