"""The benchmark: compares keyjoin with other ways to score the same rows. README.md describes it."""
