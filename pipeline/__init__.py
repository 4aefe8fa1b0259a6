"""keyjoin's command line: what is run, where and with which options."""

VERSION = "0.2.0"
