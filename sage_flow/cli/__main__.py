"""`python -m sage_flow.cli`: the same program as the command `sage-flow`."""

import sys

from sage_flow.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
