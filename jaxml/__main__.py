"""`python -m jaxml`: the command line."""

import sys

from jaxml.cli import main

sys.exit(main())
