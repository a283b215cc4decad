"""What arrives is unpacked and verified; disks that are full and archives that are damaged or evil."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile

import pytest
from download_server import BODY, COMPRESS, MEMBERS, archive, names, zstd

from fmlib import fetch as module
from fmlib.fetch import fetch, verify

pytestmark = pytest.mark.usefixtures("waits")


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
