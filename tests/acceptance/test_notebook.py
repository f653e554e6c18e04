"""The notebook of the docs, run from its first cell to its last against a server."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import running

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
# what Jupyter does with the last line of a cell; Pillow's own answer to it is the PNG
SHOWN = """
def _shown(value):
    if value is not None:
        assert value._repr_png_().startswith(b"\\x89PNG")
        print("picture", *value.size)
"""


def cells() -> list[dict[str, Any]]:
    """Those of code."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def program(cell: dict[str, Any]) -> str:
    """The cell as lines of a program that shows what its last line comes to."""
    tree = ast.parse("".join(cell["source"]))
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        last.value = ast.Call(ast.Name("_shown"), [last.value], [])
    return ast.unparse(ast.fix_missing_locations(tree))


def test_the_notebook_runs_as_written(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text("\n".join([SHOWN, *map(program, cells())]))
    with running(tmp_path / "home") as service:
        ran = subprocess.run(
            [sys.executable, "-W", "error", str(file)],
            cwd=NOTEBOOK.parent,
            env={**service.environment, "NUMERAL_URL": service.url, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    said = ran.stdout
    assert "25,450 parameters\n" in said
    accuracy = re.search(r"succeeded: (\d+\.\d)% ", said)
    assert accuracy is not None
    assert 90 < float(accuracy[1]) < 95
    assert re.search(r"^7 +\d+\.\d% #{20,}$", said, re.MULTILINE)  # the picture shows a seven
    assert re.search(r"read as 2, at \d+\.\d%", said)
    assert re.search(r"most often, \d\d+ times, a (\d) is taken for a (?!\1)\d", said)
    pictures = re.findall(r"^picture (\d+) (\d+)$", said, re.MULTILINE)
    assert len(pictures) == 6
    assert pictures[-1] == ("560", "280")


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in cells():
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
