"""Every fault, each with three seeds of its random moments, and a table of which fired and what came of them.

python -m tests.faults [options of pytest]
"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ.setdefault("FAULT_SEEDS", "3")
    sys.exit(pytest.main(["-n", "0", "-q", str(Path(__file__).parent), *sys.argv[1:]]))
