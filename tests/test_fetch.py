"""Downloads against a server on this machine that misbehaves on request."""

import bz2
import dataclasses
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fmlib import fetch as module
from fmlib.fetch import fetch, verify
from fmlib.manifest import load_manifest

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


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Waits between retries, noted instead of slept."""
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


@pytest.fixture
def publish(server):
    """Puts files on the server; returns the manifest that lists them, with their md5."""

    def publish(known=("md5", "bytes"), **files):
        entries = []
        for name, body in files.items():
            path = name.replace("__", ".")
            server.files[path] = body
            facts = {"md5": md5(body), "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
            url = f"http://127.0.0.1:{server.server_port}/{path}"
            entries.append({"path": path, "url": url} | {key: facts[key] for key in known})
        return dataclasses.replace(load_manifest("ombria"), name="sample", access="direct", files=tuple(entries))

    return publish


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


# ---- download ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [("md5", "bytes"), ("sha256",), ("md5", "sha256", "bytes")])
def test_a_file_arrives_whole(server, publish, tmp_path, known, capsys):
    manifest = publish(known, images__bin=BODY)
    paths = fetch(manifest, tmp_path)
    assert paths == [tmp_path / "ombria" / "images.bin"]
    assert paths[0].read_bytes() == BODY
    assert names(tmp_path) == ["ombria/images.bin"]
    kind = "sha256" if "sha256" in known else "md5"
    assert re.fullmatch(rf"fetched images.bin: 1.00MB in \d+ s, {kind} verified\n", capsys.readouterr().out)


def test_a_verified_file_is_not_fetched_again(server, publish, tmp_path, capsys):
    manifest = publish(a__bin=BODY, b__bin=BODY[:1000])
    fetch(manifest, tmp_path)
    capsys.readouterr()
    assert fetch(manifest, tmp_path) == [tmp_path / "ombria" / name for name in ("a.bin", "b.bin")]
    assert len(server.log) == 2
    assert capsys.readouterr().out == "sample: 2 of 2 files were here already\n"


def test_only_some_files(server, publish, tmp_path):
    manifest = publish(images__bin=BODY, metadata__parquet=b"rows")
    assert [path.name for path in fetch(manifest, tmp_path, only="metadata")] == ["metadata.parquet"]
    assert [path for path, _ in server.log] == ["/metadata.parquet"]
    with pytest.raises(ValueError, match=r"no file's path contains 'maps'; the files are images.bin, metadata.parquet"):
        fetch(manifest, tmp_path, only="maps")


def test_subfolders_are_made(publish, tmp_path):
    manifest = publish(**{"splits/train__csv": b"rows"})
    assert fetch(manifest, tmp_path)[0].read_bytes() == b"rows"


def test_a_dropped_connection_goes_on_where_it_stopped(server, publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    server.drop_after, server.drops = 400_000, 1
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked() == [None, "bytes=400000-"]
    assert server.sent == len(BODY)
    assert waits == [module.WAITS[0]]


def test_any_number_of_drops_is_fine_while_the_file_grows(server, publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    server.drop_after, server.drops = 100_000, 10
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.sent == len(BODY)
    assert waits == [module.WAITS[0]] * 10


def test_waits_grow_when_nothing_arrives_and_the_part_is_kept(server, publish, tmp_path, waits, monkeypatch):
    manifest = publish(images__bin=BODY)
    server.drop_after, server.drops = 300_000, 1

    def wait_and_lose_the_server(seconds):
        waits.append(seconds)
        server.failures = 99

    monkeypatch.setattr(module.time, "sleep", wait_and_lose_the_server)
    with pytest.raises(
        OSError, match=r"answered 503 Service Unavailable, 6 times in a row; 300kB are kept in images.bin"
    ):
        fetch(manifest, tmp_path)
    assert waits == list(module.WAITS)
    assert names(tmp_path) == ["ombria/images.bin.part"]
    server.failures = 0
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked()[-1] == "bytes=300000-"


def test_a_busy_server_is_asked_again(server, publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    server.failures, server.status = 2, 429
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert waits == list(module.WAITS[:2])


def test_a_missing_file_is_reported_at_once(server, publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    del server.files["images.bin"]
    with pytest.raises(OSError, match=r"images.bin answered 404 Not Found; open it in a browser"):
        fetch(manifest, tmp_path)
    assert waits == []
    assert names(tmp_path) == []


def test_no_server_at_all(publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    entry = manifest.files[0] | {"url": "http://127.0.0.1:9/images.bin"}
    with pytest.raises(OSError, match=r"127.0.0.1:9/images.bin: no connection .*refused.*, 6 times in a row"):
        fetch(dataclasses.replace(manifest, files=(entry,)), tmp_path)
    assert waits == list(module.WAITS)


def test_a_part_of_an_earlier_run_is_continued(server, publish, tmp_path, capsys):
    manifest = publish(images__bin=BODY)
    part = tmp_path / "ombria" / "images.bin.part"
    part.parent.mkdir()
    part.write_bytes(BODY[:700_000])
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked() == ["bytes=700000-"]
    assert server.sent == len(BODY) - 700_000
    assert "resumed at 700kB, md5 verified" in capsys.readouterr().out
    assert not part.exists()


@pytest.mark.parametrize("known", [("md5", "bytes"), ("md5",)])
def test_a_whole_part_only_needs_its_name(server, publish, tmp_path, known):
    manifest = publish(known, images__bin=BODY)
    part = tmp_path / "ombria" / "images.bin.part"
    part.parent.mkdir()
    part.write_bytes(BODY)
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert len(server.log) == (0 if "bytes" in known else 2)  # without a size only the server can tell


@pytest.mark.parametrize("known", [("md5", "bytes"), ("md5",)])
def test_a_part_longer_than_the_file_is_thrown_away(server, publish, tmp_path, known):
    manifest = publish(known, images__bin=BODY)
    part = tmp_path / "ombria" / "images.bin.part"
    part.parent.mkdir()
    part.write_bytes(BODY + b"of another file")
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked()[-1] is None


def test_a_server_without_ranges_starts_anew(server, publish, tmp_path):
    manifest = publish(images__bin=BODY)
    server.ranges, server.drop_after, server.drops = False, 400_000, 1
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked() == [None, "bytes=400000-"]
    assert server.sent == 400_000 + len(BODY)


def test_a_server_without_ranges_that_always_drops_is_given_up(server, publish, tmp_path, waits):
    manifest = publish(images__bin=BODY)
    server.ranges, server.drop_after, server.drops = False, 400_000, 99
    with pytest.raises(OSError, match="closed after 400000 of 1000003 bytes, 6 times in a row"):
        fetch(manifest, tmp_path)
    assert len(server.log) == 6
    assert names(tmp_path) == ["ombria/images.bin.part"]


def test_a_server_that_tells_no_size(server, publish, tmp_path):
    server.length = False
    assert fetch(publish(("md5",), images__bin=BODY), tmp_path)[0].read_bytes() == BODY
    server.drop_after, server.drops = 1000, 1
    assert fetch(publish(("md5", "bytes"), more__bin=BODY), tmp_path)[0].read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(server, publish, tmp_path):
    manifest = publish(images__bin=BODY)
    damaged = server.files["images.bin"] = bytes(1) + BODY[1:]
    message = rf"images.bin: md5 expected {md5(BODY)}, got {md5(damaged)}; .* fetch again.* see {manifest.home}"
    with pytest.raises(ValueError, match=message):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []
    server.files["images.bin"] = BODY
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY


def test_a_damaged_part_does_not_pass(publish, tmp_path):
    manifest = publish(images__bin=BODY)
    part = tmp_path / "ombria" / "images.bin.part"
    part.parent.mkdir()
    part.write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="md5 expected"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []


def test_a_page_in_place_of_the_file_is_refused_before_it_is_read(server, publish, tmp_path):
    manifest = publish(images__bin=BODY)
    server.files["images.bin"] = b"<html>please log in</html>"
    with pytest.raises(ValueError, match=r"gives 26 bytes, the manifest says 1000003: the published file has changed"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []


def test_a_longer_answer_than_published_leaves_nothing(server, publish, tmp_path):
    manifest = publish(images__bin=BODY)
    server.files["images.bin"], server.length = BODY + b"more", False
    with pytest.raises(ValueError, match="1000007 bytes received, 1000007 written, 1000003 expected; it is deleted"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []


def test_without_a_checksum_the_sum_is_printed(server, publish, tmp_path, capsys):
    manifest = publish((), images__bin=BODY)
    assert fetch(manifest, tmp_path, progress=False)[0].read_bytes() == BODY
    assert f"record this one: sha256 = '{hashlib.sha256(BODY).hexdigest()}'" in capsys.readouterr().out
    fetch(manifest, tmp_path)
    assert len(server.log) == 1


def test_a_damaged_file_is_fetched_anew(server, publish, tmp_path, capsys):
    manifest = publish(a__bin=BODY, b__bin=BODY)
    a, b = fetch(manifest, tmp_path)
    a.write_bytes(BODY[:-1])
    b.write_bytes(bytes(len(BODY)))
    fetch(manifest, tmp_path)
    assert a.read_bytes() == b.read_bytes() == BODY
    output = capsys.readouterr().out
    assert f"{a} is there with a wrong size; fetching it anew" in output
    assert f"{b} is there with a wrong checksum; fetching it anew" in output


# ---- disk -------------------------------------------------------------------------------------------------------


def test_too_little_room_is_told_before_the_start(server, publish, tmp_path, monkeypatch):
    manifest = publish(a__bin=BODY, b__bin=BODY)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 1_500_000))
    with pytest.raises(OSError, match=r"ombria: 2.00MB needed, 1.50MB free on its disk; make room, set FMLIB_DATA"):
        fetch(manifest, tmp_path)
    assert server.log == []
    (tmp_path / "ombria" / "a.bin.part").write_bytes(BODY[:600_000])  # what is there needs no room
    fetch(manifest, tmp_path)


def test_room_for_the_unpacked_files_is_counted(server, publish, tmp_path, monkeypatch):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))
    size = manifest.files[0]["bytes"]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 2 * size - 1))
    with pytest.raises(OSError, match="needed"):
        fetch(manifest, tmp_path)
    fetch(manifest, tmp_path, unpack=False)


def test_too_little_room_for_a_size_the_server_tells(publish, tmp_path, monkeypatch):
    manifest = publish(("md5",), images__bin=BODY)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(OSError, match=r"1.00MB needed, 1.00kB free"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []


class FullDisk(io.FileIO):
    """A file on a disk that takes `room` more bytes, and then the first bytes of a write alone."""

    room = 500_000

    def write(self, data):
        if not FullDisk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = super().write(memoryview(data)[: FullDisk.room])
        FullDisk.room -= taken
        return taken


def open_on_full_disk(path, mode):
    return io.BufferedWriter(FullDisk(path, mode)) if "a" in mode else io.FileIO(path, mode)


def test_a_disk_that_fills_up_keeps_the_part(server, publish, tmp_path, monkeypatch, waits):
    manifest = publish(images__bin=BODY)
    with monkeypatch.context() as patch:
        patch.setattr(module, "open", open_on_full_disk, raising=False)
        with pytest.raises(
            OSError, match=r"the disk is full; 500kB are kept in images.bin.part: make room, then fetch"
        ):
            fetch(manifest, tmp_path)
    assert waits == []
    assert (tmp_path / "ombria" / "images.bin.part").read_bytes() == BODY[:500_000]
    assert fetch(manifest, tmp_path)[0].read_bytes() == BODY
    assert server.ranges_asked() == [None, "bytes=500000-"]


def test_a_disk_that_fills_up_while_unpacking_keeps_the_archive(server, publish, tmp_path, monkeypatch):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(OSError, match=r"images.tar cannot be unpacked: .*No space left.*; make room, then fetch"):
            fetch(manifest, tmp_path)
    assert names(tmp_path) == ["ombria/images.tar"]
    fetch(manifest, tmp_path)
    assert (tmp_path / "ombria" / "list.csv").read_bytes() == b"a,b\n"
    assert len(server.log) == 1


def test_two_fetches_at_once_are_noticed(publish, tmp_path, monkeypatch):
    manifest, part = publish(images__bin=BODY), tmp_path / "ombria" / "images.bin.part"
    chunks = module._chunks

    def disturbed(response):
        part.write_bytes(b"of the other")
        yield from chunks(response)

    monkeypatch.setattr(module, "_chunks", disturbed)
    with pytest.raises(ValueError, match=r"1000003 bytes received, 1000015 written.* see that no other fetch runs"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == []


# ---- what cannot be fetched -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llvip", "ombria", "synthetic", "sen12ms"])
def test_what_to_do_by_hand(name, tmp_path):
    manifest = load_manifest(name)
    assert manifest.access != "direct"
    with pytest.raises(ValueError, match=f"access: {manifest.access}") as caught:
        fetch(manifest, tmp_path)
    for told in (manifest.how, manifest.home, manifest.terms, str(tmp_path / name)):
        assert told in str(caught.value)
    assert names(tmp_path) == []


def test_one_file_without_an_address_stops_all(server, publish, tmp_path):
    manifest = publish(a__bin=BODY, b__bin=BODY)
    for entry in ({"path": "b.bin"}, {"path": "b.bin", "url": "ftp://host/b.bin"}):
        with pytest.raises(
            ValueError, match=rf"b.bin of sample has no http address.*{entry.get('url', 'none')}"
        ) as caught:
            fetch(dataclasses.replace(manifest, files=(manifest.files[0], entry)), tmp_path)
        assert manifest.how in str(caught.value)
    assert server.log == []


def test_zstandard_is_asked_for_before_the_download(server, publish, tmp_path, monkeypatch):
    manifest = publish(images__tar__zst=b"archive")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match=r"pip install zstandard, or fetch with unpack=False and use tar --zstd -xf"):
        fetch(manifest, tmp_path)
    assert server.log == []
    fetch(manifest, tmp_path, unpack=False)


# ---- unpack -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*COMPRESS, "zip"])
def test_each_kind_of_archive_is_unpacked(publish, tmp_path, suffix, capsys):
    manifest = publish(**{f"images__{suffix}": archive(MEMBERS, suffix)})
    [path] = fetch(manifest, tmp_path)
    folder = path.parent
    assert {name: (folder / name).read_bytes() for name in MEMBERS} == MEMBERS
    assert names(folder) == sorted([*MEMBERS, path.name, f"{path.name}.unpacked"])
    assert json.loads((folder / f"{path.name}.unpacked").read_text()) == {
        "path": path.name,
        "bytes": path.stat().st_size,
        "md5": manifest.files[0]["md5"],
    }
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(rf"unpacked {path.name}: 21 files in \d+ s", lines[1])


def test_an_archive_of_several_compressed_pieces(publish, tmp_path):
    whole = archive(MEMBERS, "tar")
    pieces = b"".join(gzip.compress(whole[i : i + 5000]) for i in range(0, len(whole), 5000))
    frames = b"".join(zstd(whole[i : i + 5000]) for i in range(0, len(whole), 5000))
    for name, body in (("images__tgz", pieces), ("images__tar__zst", frames)):
        fetch(publish(**{name: body}), tmp_path / name)
        assert len(names(tmp_path / name)) == len(MEMBERS) + 2


def test_archives_of_one_set_are_merged(server, publish, tmp_path, capsys):
    first = {"images/a/1.bin": b"1", "images/a/2.bin": b"old"}
    second = {"images/a/2.bin": b"new", "images/a/3.bin": b"3", "images/b/4.bin": b"4"}
    manifest = publish(first__tar=archive(first, "tar"), second__zip=archive(second, "zip"))
    folder = fetch(manifest, tmp_path)[0].parent
    assert {name: (folder / name).read_bytes() for name in first | second} == first | second
    assert "unpacked second.zip: 3 files, 1 of them in place of older ones" in capsys.readouterr().out


def test_an_unpacked_archive_may_be_deleted(server, publish, tmp_path):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))
    [path] = fetch(manifest, tmp_path)
    path.unlink()
    fetch(manifest, tmp_path)
    assert len(server.log) == 1
    assert not path.exists()
    changed = publish(images__tar=archive({"list.csv": b"second edition"}, "tar"))
    fetch(changed, tmp_path)
    assert (path.parent / "list.csv").read_bytes() == b"second edition"


def test_an_unpacked_archive_without_a_checksum_may_be_deleted(server, publish, tmp_path):
    body = archive(MEMBERS, "tar")
    manifest = publish((), images__tar=body)
    [path] = fetch(manifest, tmp_path)
    assert json.loads((path.parent / "images.tar.unpacked").read_text())["sha256"] == hashlib.sha256(body).hexdigest()
    path.unlink()
    fetch(manifest, tmp_path)
    assert len(server.log) == 1


def test_unpacking_can_be_left_out_and_made_up_for(server, publish, tmp_path):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))
    [path] = fetch(manifest, tmp_path, unpack=False)
    assert names(path.parent) == ["images.tar"]
    fetch(manifest, tmp_path)
    assert len(names(path.parent)) == len(MEMBERS) + 2
    assert len(server.log) == 1


def test_a_killed_unpacking_leaves_nothing_half_made(publish, tmp_path, monkeypatch):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))
    left = tmp_path / "ombria" / ".images.tar.unpacking" / "images" / "half.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"ha")
    extract, seen = tarfile.TarFile.extract, []

    def stop(self, member, *args, **options):
        seen.append(names(tmp_path / "ombria"))
        if len(seen) == 10:
            raise KeyboardInterrupt
        return extract(self, member, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(manifest, tmp_path)
    assert len(seen[-1]) == 10  # nine members and the archive
    assert not any(name.startswith("images/") for name in seen[-1])
    assert names(tmp_path / "ombria") == ["images.tar"]
    fetch(manifest, tmp_path)
    assert not list(tmp_path.rglob("half.bin"))
    assert len(names(tmp_path / "ombria")) == len(MEMBERS) + 2


@pytest.mark.parametrize("suffix", ["tar", "tar__gz", "tar__zst", "zip"])
@pytest.mark.parametrize("evil", ["../evil", "images/../../evil"])
def test_an_archive_that_reaches_out_of_its_folder_is_refused(publish, tmp_path, suffix, evil):
    members = {"fine.bin": b"1", evil: b"2"}
    manifest = publish(**{f"images__{suffix}": archive(members, suffix)})
    with pytest.raises(ValueError, match=r"cannot be unpacked: .*evil.*outside"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == [f"ombria/images.{suffix.replace('__', '.')}"]


def test_an_absolute_path_in_an_archive_lands_nowhere_else(publish, tmp_path):
    members, evil = {f"{tmp_path}/evil": b"2"}, tmp_path / "evil"
    with pytest.raises(ValueError, match=r"cannot be unpacked: .*evil.*outside"):
        fetch(publish(images__zip=archive(members, "zip")), tmp_path)
    fetch(publish(images__tar=archive(members, "tar")), tmp_path)  # tarfile strips the leading slash
    assert not evil.exists()


def test_a_link_that_reaches_out_is_refused(publish, tmp_path):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(ValueError, match=r"cannot be unpacked: .*link"):
        fetch(publish(images__tar=buffer.getvalue()), tmp_path)
    assert names(tmp_path) == ["ombria/images.tar"]


@pytest.mark.parametrize("suffix", [*COMPRESS, "zip"])
def test_a_truncated_archive_is_refused(publish, tmp_path, suffix):
    whole = archive(MEMBERS, suffix)
    manifest = publish((), **{f"images__{suffix}": whole[: len(whole) * 2 // 3]})
    with pytest.raises(ValueError, match=r"(?s)cannot be unpacked: .*if it is damaged, delete it and fetch again"):
        fetch(manifest, tmp_path)
    assert names(tmp_path) == [f"ombria/images.{suffix.replace('__', '.')}"]


@pytest.mark.parametrize("suffix", ["tar", "tar__gz", "tar__zst"])
def test_a_damaged_header_is_not_taken_for_the_end(publish, tmp_path, suffix):
    whole = bytearray(archive(MEMBERS, "tar"))
    second = whole.index(b"images/tile_7/7.bin")
    whole[second + 5] ^= 1
    manifest = publish((), **{f"images__{suffix}": COMPRESS[suffix](bytes(whole))})
    with pytest.raises(ValueError, match="cannot be unpacked: damaged after 7 files"):
        fetch(manifest, tmp_path)


# ---- verify -----------------------------------------------------------------------------------------------------


def test_the_state_of_every_file(publish, tmp_path):
    tar = archive(MEMBERS, "tar")
    files = {"good__bin": BODY, "short__bin": BODY, "bad__bin": BODY, "gone__bin": BODY, "images__tar": tar}
    manifest, unknown = publish(**files), publish((), unknown__bin=BODY)
    manifest = dataclasses.replace(manifest, files=manifest.files + unknown.files)
    assert {row["state"] for row in verify(manifest, tmp_path)} == {"missing"}
    folder = fetch(manifest, tmp_path)[0].parent
    assert {row["state"] for row in verify(manifest, tmp_path)} == {
        "verified",
        f"no checksum published ({len(BODY)} bytes)",
    }
    (folder / "short.bin").write_bytes(BODY[:-1])
    (folder / "bad.bin").write_bytes(bytes(len(BODY)))
    (folder / "gone.bin").unlink()
    (folder / "images.tar").unlink()
    assert verify(manifest, tmp_path) == [
        {"path": "good.bin", "state": "verified", "bytes": len(BODY)},
        {"path": "short.bin", "state": "wrong size", "bytes": len(BODY) - 1},
        {"path": "bad.bin", "state": "wrong checksum", "bytes": len(BODY)},
        {"path": "gone.bin", "state": "missing", "bytes": 0},
        {"path": "images.tar", "state": "unpacked (archive removed)", "bytes": 0},
        {"path": "unknown.bin", "state": f"no checksum published ({len(BODY)} bytes)", "bytes": len(BODY)},
    ]


# ---- progress ---------------------------------------------------------------------------------------------------


def test_progress_elsewhere_than_in_a_terminal_is_a_line_a_file(publish, tmp_path, capsys):
    manifest = publish(a__bin=BODY, b__bin=BODY)
    fetch(manifest, tmp_path)
    output, errors = capsys.readouterr()
    assert [line.split(":")[0] for line in output.splitlines()] == ["fetched a.bin", "fetched b.bin"]
    assert errors == ""


def test_progress_in_a_terminal_is_a_bar(publish, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    fetch(publish(images__tar=archive(MEMBERS, "tar")), tmp_path)
    errors = capsys.readouterr().err
    assert "images.tar:   0%" in errors
    assert "unpack images.tar:   0%" in errors


def test_silence_on_request(publish, tmp_path, capsys):
    manifest = publish(images__tar=archive(MEMBERS, "tar"))
    fetch(manifest, tmp_path, progress=False)
    fetch(manifest, tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")
