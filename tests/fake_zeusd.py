"""A zeusd to ask: the part of Zeus's daemon's HTTP interface that its client uses for CPUs.

It reads a powercap tree that its clients may not, and adds up wraps as zeusd does: from one
reading to the next. https://ml.energy/zeus/zeusd/ describes the interface.
"""

import json
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ReadUj = Callable[[str, str], int | None]
"""Cumulative microjoules of a package's `cpu` or `dram`, by its number; None: it has none."""


class Tree:
    """The zones under a folder, psys among them, counted on as zeusd does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last_uj: dict[Path, int] = {}
        self._num_wraps: dict[Path, int] = {}

    def numbers(self) -> list[str]:
        return sorted(path.name.split(":")[1] for path in self._root.glob("intel-rapl:*"))

    def read_uj(self, number: str, part: str) -> int | None:
        zone = self._root / f"intel-rapl:{number}"
        if part == "dram":
            names = {(path / "name").read_text().strip(): path for path in zone.glob("intel-*")}
            if "dram" not in names:
                return None
            zone = names["dram"]
        now_uj = int((zone / "energy_uj").read_text())
        if now_uj < self._last_uj.get(zone, 0):
            self._num_wraps[zone] = self._num_wraps.get(zone, 0) + 1
        self._last_uj[zone] = now_uj
        range_uj = int((zone / "max_energy_range_uj").read_text())
        return now_uj + self._num_wraps.get(zone, 0) * range_uj


@contextmanager
def serve(
    numbers: Sequence[str],
    read_uj: ReadUj,
    api_groups: Sequence[str] = ("cpu-read",),
) -> Iterator[str]:
    """Run the daemon in a thread; gives the path of its socket."""
    discovered = {
        "gpus": [],
        "cpus": [
            {"id": int(number), "dram_available": read_uj(number, "dram") is not None}
            for number in numbers
        ],
        "enabled_api_groups": list(api_groups),
        "auth_required": False,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the client keeps its connection

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/discover":
                return self._answer(discovered)
            assert url.path == "/cpu/get_cumulative_energy", url.path
            asked = parse_qs(url.query)
            return self._answer(
                {
                    number: {
                        f"{part}_energy_uj": read_uj(number, part)
                        for part in ("cpu", "dram")
                        if asked[part] == ["true"]
                    }
                    for number in asked["cpu_ids"][0].split(",")
                }
            )

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with (
        tempfile.TemporaryDirectory() as folder,  # a short path: sockets take 107 letters
        socketserver.ThreadingUnixStreamServer(f"{folder}/zeusd.sock", Handler) as server,
    ):
        server.daemon_threads = True  # one waits for each client's next request
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"{folder}/zeusd.sock"
        server.shutdown()
