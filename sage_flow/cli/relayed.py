"""`python -m sage_flow.cli.relayed COMMAND...`: what the relay runs on the cluster.

A module of its own, because the program imports the relay.
"""

import sys

from sage_flow.cli.program import main
from sage_flow.cli.relay import run_packed

if __name__ == "__main__":
    sys.exit(run_packed(main, sys.argv[1:]))
