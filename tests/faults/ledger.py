"""What fired, and what came of it: one line a fault, printed when the tests have run."""

from dataclasses import dataclass
from typing import Any

PROPERTY = "fault"


@dataclass
class Fault:
    """One fault of one test. A test that never saw its fault fire fails, however well the service did."""

    name: str
    where: str
    seen: str = ""
    outcome: str = ""

    def fired(self, seen: str) -> None:
        """Say by what it was seen that the fault is real."""
        self.seen = f"{self.seen}; {seen}" if self.seen else seen

    def came(self, outcome: str) -> None:
        """Say what came of it."""
        self.outcome = outcome


def summarise(reporter: Any) -> None:
    """The table of every fault of this run, after pytest's own summary."""
    lines = []
    for verdict in ("passed", "failed"):
        for report in reporter.stats.get(verdict, ()):
            found = [value for name, value in report.user_properties if name == PROPERTY]
            lines += [(*one.values(), verdict) for one in found]
    if not lines:
        return
    reporter.section("faults")
    for name, where, seen, outcome, verdict in sorted(lines):
        reporter.write_line(f"{verdict}  {name} [{where}]")
        reporter.write_line(f"        fired:  {seen or 'NO'}")
        reporter.write_line(f"        came:   {outcome or 'the test ended before'}")


def record(properties: list[tuple[str, Any]], fault: Fault) -> None:
    """Put it, as it will be when the test has ended, where a report carries it, from another process too."""
    properties.append((PROPERTY, vars(fault)))
