"""`make bench`: every benchmark, one after another, each in a process of its own."""

import subprocess
import sys

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "latency": (),
    "store": (),
    "augment": (),
    "roofline": (),
    "sweeps": (),
    "confidence": (),
    "reading": (),
    "serving": (),
    "hostile": (),
    "training": ("--quick",),  # all of it takes half an hour
    "lecture": ("--quick",),  # all of it takes hours
}


def main() -> int:
    failed = []
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"bench.{name}", *BENCHMARKS[name]]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"not within their bounds: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
