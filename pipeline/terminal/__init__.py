"""The terminal: messages, reports, exit codes, signals."""
