"""What hostile uploads cost a server in memory: the corpus of `tests/hostile.py`, each posted several at a time at a
real `numeral serve`, whose resident memory is watched meanwhile. Bounds: no answer of 500 or above but 503, and at most
150 MB over idle.

    python -m bench.hostile [--together 4] [--only json]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench.serving import WIDTHS, free_port, pictures, png, register
from tests.hostile import Attack, corpus

BOUND = 150e6  # bytes over idle
PAUSE = 0.005


class Watch:
    """The most that a process has had resident, by looking all the time."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/statm")
        self._ended = threading.Event()
        self.most = 0
        threading.Thread(target=self._look, daemon=True).start()

    def now(self) -> int:
        return int(self._file.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def _look(self) -> None:
        while not self._ended.wait(PAUSE):
            self.most = max(self.most, self.now())

    def stop(self) -> None:
        self._ended.set()


def post(http: httpx.Client, attack: Attack) -> str:
    try:
        answer = http.post(attack.path, content=attack.body, headers={"Content-Type": attack.content_type})
    except httpx.TransportError as error:
        return type(error).__name__
    return str(answer.status_code)


def serving(home: Path) -> tuple["subprocess.Popen[bytes]", str]:
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "NUMERAL_HOME": str(home),
        "NUMERAL_PORT": url.rpartition(":")[2],
        "NUMERAL_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "service.cli", "serve"], env=os.environ | environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/livez").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return process, url
    process.kill()
    raise SystemExit("the server did not start")


def measure(home: Path, together: int, only: str) -> int:
    register(home, WIDTHS["small"])
    process, url = serving(home)
    try:
        with httpx.Client(base_url=url, timeout=120) as http, ThreadPoolExecutor(together) as pool:
            for path in ("/v1/predict", "/v1/read"):
                for _ in range(20):  # an idle one has loaded what it needs for decent pictures
                    http.post(path, content=png(pictures(1)[0])).raise_for_status()
            watch = Watch(process.pid)
            idle = watch.now()
            print(f"idle: {idle / 1e6:.0f} MB")
            worst, odd = 0.0, 0
            for attack in (one for one in corpus() if only in one.name):
                watch.most = 0
                began = time.monotonic()
                statuses = Counter(pool.map(lambda _, one=attack: post(http, one), range(together)))
                over = (max(watch.most, watch.now()) - idle) / 1e6
                worst = max(worst, over)
                odd += sum(
                    count
                    for status, count in statuses.items()
                    if not status.isdigit() or 500 <= int(status) != 503
                )
                told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
                print(
                    f"{attack.name:45} {len(attack.body):11,} B  {over:+6.0f} MB  {time.monotonic() - began:5.1f} s  {told}",
                    flush=True,
                )
            time.sleep(1)
            print(
                f"most over idle: {worst:.0f} MB (bound {BOUND / 1e6:.0f}); afterwards {(watch.now() - idle) / 1e6:+.0f} MB; {odd} odd answers"
            )
            watch.stop()
    finally:
        process.kill()  # it may be at work for a client that has left
        process.wait()
    return 0 if worst * 1e6 <= BOUND and not odd else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--together", type=int, default=4, help="Posts of one body at a time.")
    parser.add_argument("--only", default="", help="Those with this in their name.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        return measure(Path(home), arguments.together, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
