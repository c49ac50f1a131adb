"""Merging parts loses nothing and doubles nothing, whenever it is interrupted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.runs import Run, Writer
from gradscope.runs.format import Part, parse_part, visible
from gradscope.runs.parts import FANOUT, PartWriter
from gradscope.runs.store import Store
from gradscope.runs.tables import TableReader, gaps
from gradscope.spec import LayerSpec, MetricSpec

METRICS = (MetricSpec("a", "A"),)


def write_steps(folder: Path, count: int) -> None:
    writer = Writer(str(folder), metrics=METRICS)
    writer.describe([LayerSpec(id=0, layer="l", call=1, depth=1)])
    for step in range(count):
        writer.rows(step, np.zeros(1, np.int32), np.full((1, 1), float(step)), np.ones((1, 1), np.bool_))
        writer.flush()


def parts_in(folder: Path) -> list[Part]:
    found = (parse_part(one.name) for one in (folder / "layers").iterdir())
    return sorted(part for part in found if part is not None)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 70])
def test_parts_merge_by_32(tmp_path: Path, count: int) -> None:
    write_steps(tmp_path / "run", count)
    assert len(parts_in(tmp_path / "run")) == count // FANOUT + count % FANOUT
    assert Run(str(tmp_path / "run")).frame("a")[1].tolist() == list(range(count))


def test_merged_parts_merge_again(tmp_path: Path) -> None:
    write_steps(tmp_path / "run", FANOUT * FANOUT + 1)
    sizes = [part.last - part.first + 1 for part in parts_in(tmp_path / "run")]
    assert sizes == [FANOUT * FANOUT, 1]
    assert Run(str(tmp_path / "run")).steps() == list(range(FANOUT * FANOUT + 1))


def test_large_parts_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.runs.parts.LARGEST", 1000)
    write_steps(tmp_path / "run", 40)
    assert len(parts_in(tmp_path / "run")) == 40


@settings(max_examples=15, deadline=None)
@given(count=st.integers(32, 100), deleted=st.integers(0, 31))
def test_a_crash_while_deleting_doubles_nothing(count: int, deleted: int, tmp_path_factory: Any) -> None:
    """The merged part is there, and of those it covers all but the first `deleted`."""
    folder = tmp_path_factory.mktemp("crash") / "run"

    class Dies(BaseException):
        pass

    class DyingStore(Store):
        left = deleted

        def remove(self, name: str) -> None:
            if not self.left:
                raise Dies
            DyingStore.left -= 1
            super().remove(name)

    writer = Writer(str(folder), metrics=METRICS)
    writer.describe([LayerSpec(id=0, layer="l", call=1, depth=1)])
    parts = writer._parts["layers"]
    parts._store = DyingStore(str(folder))
    written = 0
    try:
        for step in range(count):
            writer.rows(step, np.zeros(1, np.int32), np.full((1, 1), float(step)), np.ones((1, 1), np.bool_))
            written += 1
            writer.flush()
    except Dies:
        pass
    assert written == FANOUT
    assert len(parts_in(folder)) == 1 + FANOUT - deleted
    assert Run(str(folder)).rows("a")["step"].tolist() == list(range(FANOUT))


def leave_covered_parts(folder: Path) -> None:
    """Write 33 steps, and put the first two parts back, as a crash between merging and deleting leaves them."""
    write_steps(folder, FANOUT - 1)
    (early, later) = parts_in(folder)[:2]
    content = [(folder / "layers" / one.filename).read_bytes() for one in (early, later)]
    (merged,) = merge_all(folder)
    for part, data in zip((early, later), content, strict=True):
        (folder / "layers" / part.filename).write_bytes(data)
    assert parts_in(folder) == [early, merged, later]


def merge_all(folder: Path) -> list[Part]:
    parts = parts_in(folder)
    table = pa.concat_tables(pq.ParquetFile(folder / "layers" / part.filename).read() for part in parts)
    for part in parts:
        (folder / "layers" / part.filename).unlink()
    merged = Part(parts[0].writer, parts[0].first, parts[-1].last)
    pq.write_table(table, folder / "layers" / merged.filename)
    return [merged]


def test_the_next_writer_deletes_what_a_dead_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    leave_covered_parts(folder)
    assert len(pd.read_parquet(folder / "layers")) == FANOUT + 1  # others count them twice
    description = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(description | {"pid_started": 1}))
    Writer(str(folder), metrics=METRICS, resume=True)
    assert len(parts_in(folder)) == 1
    assert pd.read_parquet(folder / "layers")["step"].tolist() == list(range(FANOUT - 1))


def test_closing_deletes_what_another_writer_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = Writer(str(folder), metrics=METRICS, rank=1)
    leave_covered_parts(folder)
    other.close()
    assert len(parts_in(folder)) == 1


def test_parts_covered_by_an_unreadable_one_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    leave_covered_parts(folder)
    early, merged, later = parts_in(folder)
    (folder / "layers" / merged.filename).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="gradscope.runs.parts"):
        Writer(str(folder), metrics=METRICS, rank=1).close()
    assert caplog.messages == [f"could not tidy up {folder}/layers: Parquet file size is 0 bytes"]
    assert parts_in(folder) == [early, merged, later]


def test_a_merge_that_fails_is_given_up_and_told(
    tmp_path: Path, metrics: Any, caplog: pytest.LogCaptureFixture, fill: Callable[..., None]
) -> None:
    class FullStore(Store):
        def write(self, name: str, data: Any) -> None:
            if "00000000-00000031" in name:
                raise OSError(28, "No space left on device")
            super().write(name, data)

    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe([LayerSpec(id=one, layer=f"l{one}", call=1, depth=one + 1) for one in range(3)])
    writer._parts["layers"]._store = FullStore(str(tmp_path / "run"))
    with caplog.at_level(logging.WARNING, logger="gradscope.runs.parts"):
        for step in range(32):
            fill(writer, [step])
            writer.flush()
    assert caplog.messages == [f"could not compact {tmp_path}/run/layers: [Errno 28] No space left on device"]
    assert Run(str(tmp_path / "run")).steps() == list(range(32))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_visible_parts_cover_every_number_once(blocks: list[tuple[str, int, int]]) -> None:
    """Aligned ranges of 1, 4 and 16, as merging makes them, in any mixture."""
    parts = []
    for writer, place, level in blocks:
        size = 4**level
        parts.append(Part(writer, place * size, (place + 1) * size - 1))
    shown = visible(parts)
    numbers = [(one.writer, number) for one in shown for number in range(one.first, one.last + 1)]
    wanted = {(one.writer, number) for one in parts for number in range(one.first, one.last + 1)}
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == wanted
    assert shown == sorted(shown)


def test_cached_columns_are_not_read_again_after_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    schema = Writer(str(tmp_path / "other"), metrics=METRICS)._parts["layers"]._schema
    writer = PartWriter(store, "layers", schema, "r0xa")
    reader = TableReader(store, "layers", schema)
    opened: list[str] = []
    plain = Store.parquet

    def counted(self: Store, name: str) -> Any:
        opened.append(name)
        return plain(self, name)

    def row(step: int) -> Any:
        content = {"step": [step], "rank": [0], "id": [0], "skipped": [False], "nonfinite": [0], "a": [1.0]}
        return pa.table(content, schema=schema)

    for step in range(31):
        writer.write(row(step))
    reader.columns(["step"])
    writer.write(row(31))
    writer.compact()
    monkeypatch.setattr(Store, "parquet", counted)
    assert reader.refresh() is True
    steps = reader.columns(["step"])["step"].to_pylist()
    assert steps == list(range(32))
    assert len(opened) == 1  # the new rows came inside a part that also holds the old ones
    assert reader.refresh() is False
    for step in range(32, 64):
        writer.write(row(step))
        writer.compact()
        reader.refresh()
        reader.columns(["step"])
    assert len(parts_in(tmp_path)) == 2
    assert reader.columns(["step"])["step"].to_pylist() == list(range(64))


def test_parts_that_are_really_lost_are_told(tmp_path: Path) -> None:
    write_steps(tmp_path / "run", 5)
    lost = parts_in(tmp_path / "run")[2]
    (tmp_path / "run" / "layers" / lost.filename).unlink()
    with pytest.warns(UserWarning, match="lacks parts") as caught:
        run = Run(str(tmp_path / "run"))
    assert run.steps() == [0, 1, 3, 4]
    assert [str(one.message) for one in caught] == [
        f"{tmp_path}/run/layers lacks parts that were written, 2 to 2 of writer {lost.writer}; their rows are lost"
    ]
    assert gaps([Part("a", 1, 1)]) == [Part("a", 0, 0)]
