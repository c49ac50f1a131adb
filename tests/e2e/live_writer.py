"""Write a run in a process of its own: one recorded step for each line on standard input, then close."""

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "figures"))

import synthetic_runs


def main(path: Path) -> None:
    writer = synthetic_runs.write(path, steps=range(0, 20, 10), close=False)
    writer.flush()
    rng = np.random.default_rng(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number, _ in enumerate(sys.stdin, start=2):
        synthetic_runs.add_step(writer, number * 10, 8, 0.5, 0.05, rng)
        writer.flush()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
