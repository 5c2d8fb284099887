"""`python tests/chaos --minutes 60 [--seed N]`: the long form."""

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "jobs")]

from chaos import run  # noqa: E402
from ray_cluster import two_nodes  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, two_nodes() as cluster:
        run(given.minutes, given.seed, folder, cluster)


if __name__ == "__main__":
    main()
