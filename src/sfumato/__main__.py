"""``python -m sfumato``: the command line where no script is installed."""

import sys

from sfumato.cli import main

sys.exit(main())
