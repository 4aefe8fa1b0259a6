"""The benchmark: keyjoin side by side with other ways to do its work; see README.md."""
