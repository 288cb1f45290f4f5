"""`python -m picker`: the picker command."""

import sys

from picker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
