"""`python -m metalm` is the command `metalm`."""

import sys

from metalm.cli import main

sys.exit(main())
