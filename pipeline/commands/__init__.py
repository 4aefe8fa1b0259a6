"""Implements the commands of keyjoin, one file each."""
