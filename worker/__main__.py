"""`python -m worker`, which `numeral worker` becomes."""

import sys

from service import settings
from service.errors import ServiceError
from service.observing import logs
from service.store import host
from worker import app


def main() -> int:
    try:
        loaded = settings.load()
        logs.configure(loaded, "worker")
        with host.held(loaded.database):
            app.run(loaded)
    except ServiceError as error:
        print(f"numeral: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
