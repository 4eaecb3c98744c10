"""`python -m dirprune`, which `torchrun -m dirprune` needs."""

import sys

from dirprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
