"""The second half of the zoo: members of the same families, with parameters that a seed draws."""

from __future__ import annotations

import random
from typing import Any

from zoo.cases import Case
from zoo.families import FAMILIES, Family, member

SEED = 0x7480FCC
"""Chosen after the rules of the checks were frozen, and by nobody: the hash of the commit that froze them."""
BATCHES = (16, 32, 64, 128, 256, 512)
LOSS_SCALES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1.0, 1.0, 10.0, 100.0, 1e3)
BUDGET = 4e10
"""Multiplications of a training, about 3 s on a core: larger batches are halved until it fits."""


def drawn(seed: int) -> list[Case]:
    """Draw as many members of each family as it asks for."""
    chance = random.Random(seed)
    return [
        member(name, f"{name} {number}" if family.count > 1 else name, **_parameters(family, chance))
        for name, family in FAMILIES.items()
        for number in range(1, family.count + 1)
    ]


def _parameters(family: Family, chance: random.Random) -> dict[str, Any]:
    given = {name: chance.choice(list(choices)) for name, choices in family.drawn.items()}
    drawn: dict[str, Any] = {
        "batch": chance.choice(BATCHES),
        "loss_scale": chance.choice(LOSS_SCALES),
        "seed": chance.randrange(10**6),
    }
    drawn = {name: value for name, value in drawn.items() if name not in family.fixed} | given
    return _affordable(family, drawn)


def _affordable(family: Family, drawn: dict[str, Any]) -> dict[str, Any]:
    given = {**family.fixed, **drawn}
    positions = 30 if family.network == "cnn" else 1
    width, steps = given.get("width", 16 if family.network == "cnn" else 64), given.get("steps", 200)
    weights = given["depth"] * width**2 * (9 * positions if family.network == "cnn" else 1) + 64 * width
    batch = given.get("batch", 64)
    while batch > 16 and 3 * weights * batch * steps > BUDGET:
        batch //= 2
    return drawn if "batch" in family.fixed else drawn | {"batch": batch}
