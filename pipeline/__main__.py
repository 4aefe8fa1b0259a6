"""`python -m pipeline` is `keyjoin`."""

from pipeline.cli import entry

if __name__ == "__main__":
    entry()
