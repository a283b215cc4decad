"""Downloads against a server on this machine that misbehaves on request."""

import dataclasses
import hashlib
import re
import sys

import pytest
from download_server import BODY, MEMBERS, archive, md5, names

from fmlib import fetch as module
from fmlib.fetch import fetch
from fmlib.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("waits")


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
