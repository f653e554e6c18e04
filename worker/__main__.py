"""`python -m worker`, which `numeral worker` becomes."""

import sys

from service import logs, settings
from service.errors import ServiceError
from worker import app


def main() -> int:
    try:
        loaded = settings.load()
        logs.configure(loaded, "worker")
        app.run(loaded)
    except ServiceError as error:
        print(f"numeral: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
