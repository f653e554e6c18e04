"""Bytes that lead somewhere new, sought by atheris for everything that reads foreign ones (see `tests/readers.py`): each
kind in a process of its own, guided by which lines of Python its bytes reach. Bound: nothing that has to hold fails, and
nothing takes more than ten seconds or a gigabyte. What fails is kept, and its path told.

    python -m bench.readers [--seconds 900] [--only form] [--keep FOLDER]
"""

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import atheris

WITHIN = "--within"  # of a process that seeks, in which code that it loads tells what it reaches
REACHED = ["service", "starlette.formparsers", "python_multipart", "zipfile", "PIL"]
with atheris.instrument_imports(include=REACHED) if WITHIN in sys.argv else nullcontext():
    from tests import readers

CASE_SECONDS, MEMORY_MB, MAX_BYTES = 10, 1500, 16_384
ROUND_TRIES = 150_000  # of one process: what atheris counts with keeps some 4 kB a try for good


def sought(kind: str, folder: Path, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    logging.disable()
    corpus, tokens = folder / kind, folder / f"{kind}.dict"
    corpus.mkdir(exist_ok=True)  # what led further stays for the next round
    for number, data in enumerate(readers.ALL[kind].good):
        (corpus / str(number)).write_bytes(data)
    tokens.write_text("".join(f'"{_escaped(token)}"\n' for token in readers.ALL[kind].tokens))
    options = {
        "max_total_time": seconds, "runs": ROUND_TRIES, "timeout": CASE_SECONDS, "rss_limit_mb": MEMORY_MB,
        "max_len": MAX_BYTES, "dict": tokens, "artifact_prefix": f"{folder}/{kind}-", "print_final_stats": 1,
    }  # fmt: skip
    words = [sys.argv[0], str(corpus), *(f"-{name}={value}" for name, value in options.items())]
    atheris.Setup(words, readers.ALL[kind].holds)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def measure(kinds: list[str], folder: Path, seconds: int) -> int:
    failed = []
    for kind in kinds:
        tries, reached, until = 0, 0, time.monotonic() + seconds
        while (left := round(until - time.monotonic())) > 0:
            words = [sys.executable, "-m", "bench.readers", "--only", kind]
            words += ["--seconds", str(left), WITHIN, str(folder)]
            done = subprocess.run(words, check=False, capture_output=True, text=True)
            said = done.stdout + done.stderr
            tried = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
            tries += int(tried[-1]) if tried else 0
            reached = max([reached, *map(int, re.findall(r"cov: (\d+)", said))])
            if done.returncode or not tried:
                break
        found = sorted(file.name for file in folder.glob(f"{kind}-*"))
        print(
            f"{kind:12} {tries:11,} tries, {reached:6,} places reached, found: {found or 'nothing'}",
            flush=True,
        )
        if done.returncode or found or not tries:
            failed.append(kind)
            print(f"status {done.returncode}\n{said[-3000:]}", flush=True)
    print(f"{len(failed)} of {len(kinds)} readers failed (bound 0)")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=900, help="Of each kind.")
    parser.add_argument("--only", action="append", choices=readers.ALL)
    parser.add_argument("--keep", type=Path, help="A folder for what is found and for what led there.")
    parser.add_argument(WITHIN, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.within is not None:
        sought(arguments.only[0], arguments.within, arguments.seconds)
    kinds = arguments.only or list(readers.ALL)
    folder = Path(tempfile.mkdtemp(dir=arguments.keep))  # stays, so that what is found can be looked at
    return measure(kinds, folder, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
