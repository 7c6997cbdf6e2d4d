"""The command line of data preparation: `python -m data_prep VERB …`.

Verbs: simulate, convert, verify, show, statistics. What people read goes to stderr, results go to stdout.
Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted.
"""

import sys

from data_prep.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
