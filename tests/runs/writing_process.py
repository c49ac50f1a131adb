"""A process that writes a run: `python writing_process.py FOLDER RANK STEPS FLUSH_EVERY`; says each flushed step."""

from __future__ import annotations

import sys

import numpy as np

from gradscope.runs import Writer
from gradscope.spec import LayerSpec, MetricSpec

LAYERS = 5


def main(folder: str, rank: int, steps: int, flush_every: int) -> None:
    writer = Writer(folder, metrics=[MetricSpec("a", "A"), MetricSpec("b", "B")], rank=rank)
    writer.describe([LayerSpec(id=one, layer=f"l{one}", call=1, depth=one + 1) for one in range(LAYERS)])
    writer.flush()
    ids = np.arange(LAYERS, dtype=np.int32)
    for step in range(steps):
        writer.rows(step, ids, np.full((LAYERS, 2), step + rank / 10), np.ones((LAYERS, 2), np.bool_))
        writer.next_step = step + 1
        if step % flush_every == flush_every - 1:
            writer.flush()
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1], *(int(one) for one in sys.argv[2:]))
