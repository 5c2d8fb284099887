"""`python tests/prove`, which is `make prove`."""

import sys

from proof import main

sys.exit(main())
