"""Entry points for ``ray job submit``: parse, load, run, exit code."""
