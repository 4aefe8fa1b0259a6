"""The commands of keyjoin, one file each."""
