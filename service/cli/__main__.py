"""`python -m service.cli` is `numeral`."""

from service.cli import main

if __name__ == "__main__":
    main()
