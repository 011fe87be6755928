"""``python -m fpq``: the same as the ``fpq`` command."""

import sys

from fpq.cli import main

if __name__ == "__main__":
    sys.exit(main())
