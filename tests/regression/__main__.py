"""`python tests/regression`, which is `make regression`."""

import sys

from long_run import main

sys.exit(main())
