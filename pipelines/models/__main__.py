"""python -m pipelines.models [--json]: the names that a request may give in this environment."""

from __future__ import annotations

import argparse
import json
import sys

from pipelines.models import names


def main() -> int:
    """One name a line, or one JSON list."""
    words = argparse.ArgumentParser(prog="python -m pipelines.models", description=__doc__)
    words.add_argument("--json", action="store_true", help="one JSON list")
    given = words.parse_args()
    sys.stdout.write((json.dumps(names()) if given.json else "\n".join(names())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
