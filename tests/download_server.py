"""A server on this machine that misbehaves on request, and archives for it to serve."""

import bz2
import dataclasses
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fmlib.manifest import Manifest, load_manifest

BODY = np.random.default_rng(0).bytes(1_000_003)


class Server(ThreadingHTTPServer):
    """Serves `files`, notes each request in `log`, and does what its attributes say."""

    daemon_threads = True
    files: dict[str, bytes]
    ranges = True  # answer Range with 206
    length = True  # send Content-Length
    drop_after, drops = 0, 0  # close the connection after so many bytes, so many times
    failures, status = 0, 503  # answer so many requests with this status
    sent = 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log = {}, []

    def ranges_asked(self) -> list[str | None]:
        return [asked for _, asked in self.log]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.log.append((self.path, asked))
        body = server.files.get(self.path.lstrip("/"))
        if server.failures:
            server.failures -= 1
            return self.send_error(server.status)
        if body is None:
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        if server.drops:
            server.drops -= 1
            rest = rest[: server.drop_after]
        self.wfile.write(rest)
        server.sent += len(rest)

    def log_message(self, *args):
        pass


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(server: Server, known: tuple[str, ...] = ("md5", "bytes"), **files: bytes) -> Manifest:
    """Put files on the server; returns the manifest that lists them with the facts that are `known`."""
    entries = []
    for name, body in files.items():
        path = name.replace("__", ".")
        server.files[path] = body
        facts = {"md5": md5(body), "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        entries.append({"path": path, "url": url} | {key: facts[key] for key in known})
    return dataclasses.replace(load_manifest("ombria"), name="sample", access="direct", files=tuple(entries))


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def archive(members: dict[str, bytes], suffix: str) -> bytes:
    """An archive with these members."""
    if suffix == "zip":
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
            for name, body in members.items():
                file.writestr(name, body)
        return buffer.getvalue()
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as file:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    return COMPRESS[suffix](buffer.getvalue())


def zstd(body: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(body)


COMPRESS = {
    "tar": bytes,
    "tar__gz": gzip.compress,
    "tgz": gzip.compress,
    "tar__bz2": bz2.compress,
    "tar__xz": lzma.compress,
    "tar__zst": zstd,
}
MEMBERS = {f"images/tile_{i}/{i}.bin": BODY[1000 * i : 1000 * i + 999] for i in range(20)} | {"list.csv": b"a,b\n"}
