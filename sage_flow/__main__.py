"""`python -m sage_flow` is `sage-flow`."""

import sys

from sage_flow.cli import main

if __name__ == "__main__":
    sys.exit(main())
