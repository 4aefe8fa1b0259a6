"""Reports on a finished run: its result and distributions, as a page and as text, and its drift from another run."""
