"""`python -m sparring` is the command `sparring`."""

import sys

from sparring.cli.main import main

sys.exit(main())
