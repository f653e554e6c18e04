"""docs/guarantees.md names every fault that is tested, and none that is not."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def injected() -> set[str]:
    """The first lines of what the tests that are told of a fault say of themselves."""
    found = set()
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                said = ast.get_docstring(node)
                if said is not None:
                    found.add(said.splitlines()[0])
    return found


def promised() -> set[str]:
    """The second cells of the tables."""
    rows = [line.split(" | ") for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines()]
    return {cells[1] for cells in rows if len(cells) == 3} - {"fault", "---"}


def test_each_promise_has_its_fault_and_each_fault_its_promise() -> None:
    assert promised() == injected()
