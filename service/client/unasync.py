"""Write the blocking half of the client from the awaiting half: the same text without `async` and `await`.

python -m service.client.unasync            rewrite service/client/blocking
python -m service.client.unasync --check    exit 1 if it would change
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
HEADER = "# Written by service.client.unasync from {name}; change that.\n"
PAIRS = (
    (r"async (def|for|with) ", r"\1 "),
    (r"await ", ""),
    (r"\bAwaitable\[Any\] \| ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\ba(close|read|iter_\w+|pause|pieces|tell|closing)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bawaiting\b", "blocking"),
    (r"(Iterator), Awaitable,", r"\1,"),
    (r"The client for programs that await\.[^\n]*", 'The client for programs that block."""'),
)


def blocking(text: str, name: str) -> str:
    """The blocking text of an awaiting module."""
    for pattern, replacement in PAIRS:
        text = re.sub(pattern, replacement, text)
    return _tidied(HEADER.format(name=f"awaiting/{name}") + text)


def _tidied(text: str) -> str:
    """As the linter and the formatter have it."""
    for command in (
        ("check", "--quiet", "--fix", "--unsafe-fixes", "--select", "I,SIM117,UP028"),
        ("format",),
    ):
        words = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(HERE / "x.py"), "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


def written() -> Iterator[tuple[Path, str]]:
    """Each blocking module, and what it should hold."""
    for source in sorted((HERE / "awaiting").glob("*.py")):
        yield HERE / "blocking" / source.name, blocking(source.read_text(), source.name)


def main() -> None:
    stale = [(file, text) for file, text in written() if not file.is_file() or file.read_text() != text]
    if "--check" in sys.argv:
        sys.exit("\n".join(f"{file} is not as it would be written" for file, _ in stale) or 0)
    for file, text in stale:
        file.write_text(text)


if __name__ == "__main__":
    main()
