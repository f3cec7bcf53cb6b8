"""`python -m genref verify [PATTERN]`: checks the claims of a checkout and prints what was found."""

import sys
from importlib.util import find_spec


def main() -> int:
    """Hands over to the checkout's machinery; the installed package does not carry it."""
    if find_spec("genref._site") is None:
        print("the claims are checked in a checkout of genref, where their tests are; run this there", file=sys.stderr)
        return 2
    from genref._site.verify import main as verify

    return verify()


if __name__ == "__main__":
    sys.exit(main())
