"""`python -m bench`: runs the race, prints the table, writes the result."""

import sys

from bench.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
