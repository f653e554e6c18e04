"""The command `numeral`. Data goes to standard output, progress and mistakes to standard error; with
`--json` the output is JSON for scripts. Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 no server answers,
130 interrupted."""

from service.cli.app import app, main

__all__ = ["app", "main"]
