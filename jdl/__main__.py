"""`python -m jdl VERB`, the same as `jdl VERB`."""

import sys

from jdl.cli import main

if __name__ == "__main__":
    sys.argv[0] = "jdl"  # for usage messages, and for the command that a run records
    main()
