"""`python -m latentslots`, which is what `accelerate launch -m` needs."""

import sys

from latentslots.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
