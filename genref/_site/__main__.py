"""Runs the build front."""

import sys

from genref._site.build import main

if __name__ == "__main__":
    sys.exit(main())
