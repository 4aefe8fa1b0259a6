"""The command line of keyjoin: its commands, options, run folders and messages."""

VERSION = "0.2.0"
