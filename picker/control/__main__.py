"""`python -m picker.control LINK LISTENER...`: the control process, started by the data plane with open sockets."""

import sys

from picker.control.plane import main

if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
