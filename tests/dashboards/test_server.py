import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from gradscope.dashboards import build_server, serve, table
from gradscope.dashboards.pages import flow
from gradscope.dashboards.server import bound, free_port
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState
from gradscope.errors import GradscopeError, InvalidValueError, RunFormatError


def test_a_taken_port_is_named_and_another_suggested(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GradscopeError) as caught:
            serve(str(folder), port=port)
        free = free_port("127.0.0.1", port)
    assert str(caught.value) == (
        f"port {port} of 127.0.0.1 is taken; choose another one, such as port {free}, or stop what uses it"
    )


def test_the_port_suggested_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        suggested = free_port("127.0.0.1", port - 1)
        assert suggested is not None
        assert suggested > port
        with bound("127.0.0.1", suggested) as listener:
            assert listener.getsockname()[1] == suggested
    assert free_port("127.0.0.1", 65535) is None


def test_a_port_that_is_none() -> None:
    with pytest.raises(InvalidValueError) as caught:
        serve(".", port=70000)
    assert str(caught.value) == "port must lie between 0 and 65535, not 70000"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFormatError) as caught:
        serve(str(tmp_path / "none"), port=0)
    assert str(caught.value) == f"there is no folder '{tmp_path}/none'"


def test_showing_a_run_changes_nothing_on_disk(folder: Path) -> None:
    def content() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}

    before = content()
    source = Source(str(folder))
    for state in (FlowState("plain"), FlowState("spoiled", ("plain",), "saturation", 20)):
        source.poll()
        flow.answer(source, state, "light")
    table.rows(source)
    assert content() == before


def test_it_answers_on_loopback_only_and_tells_where(folder: Path) -> None:
    server = build_server(str(folder), port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert server.host == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/flow") as answer:
            assert b"gradscope" in answer.read()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
