"""``python -m sfumato``: the command line where no script is installed."""

import sys

from sfumato.cli import main

if __name__ == "__main__":  # a process that trains a member of an ensemble imports this too
    sys.exit(main())
