"""The digits in the package, and MNIST from a folder or from a server that behaves well, badly, or not at all."""

import gzip
import hashlib
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files

import pytest
import torch

from genref import data

TEST = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array):
    shape = array.shape
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.numpy().tobytes()


@pytest.fixture
def small():
    """Five images and labels, as the two files of a split would hold them."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(256, (5, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)
    return images, labels


@pytest.fixture
def folder(tmp_path, small):
    for name, array in zip(TEST, small, strict=True):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


@pytest.fixture
def server(monkeypatch, small):
    """A mirror: what it holds, what was asked of it, and after how many bytes it breaks off."""

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            server.asked.append((name, start))
            if name not in server.holds:
                return self.send_error(404)
            whole = server.holds[name]
            if 0 < start >= len(whole):
                return self.send_error(416)
            start = start if server.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            return self.wfile.write(whole[start : start + server.breaks])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.asked, server.ranges, server.breaks = [], True, 10**6
    server.holds = {f"{name}.gz": gzip.compress(idx(array)) for name, array in zip(TEST, small, strict=True)}
    sums = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in zip(TEST, small, strict=True)}
    monkeypatch.setattr(data, "CHECKSUMS", sums)
    monkeypatch.setattr(data, "MIRRORS", [f"http://127.0.0.1:{server.server_port}/"])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_digits_are_those_that_scikit_learn_ships():
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), data.digits()
    assert ours.images.shape == (1797, 8, 8)
    assert torch.equal(ours.images.double() * 16, torch.tensor(theirs.images))
    assert torch.equal(ours.labels, torch.tensor(theirs.target))
    assert "CC BY 4.0" in (files("genref.data") / "LICENSE-digits.txt").read_text()


def test_images_have_the_default_dtype():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert data.digits().images.dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert data.digits().images.dtype == before


@pytest.mark.parametrize("compressed", [True, False])
def test_mnist_is_read_from_a_folder(tmp_path, folder, small, compressed):
    if not compressed:
        for name, array in zip(TEST, small, strict=True):
            (folder / f"{name}.gz").unlink()
            (folder / name).write_bytes(idx(array))
    images, labels = data.mnist("test", folder)
    assert torch.equal((images * 255).round().byte(), small[0])
    assert images.max() <= 1
    assert labels.tolist() == [3, 1, 4, 1, 5]


def test_the_environment_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("GENREF_DATA", str(folder))
    assert len(data.mnist("test").labels) == 5


def test_a_folder_may_begin_with_the_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(data.mnist("test", f"~/{folder.name}").labels) == 5


def test_a_file_that_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionError, match=TEST[0]):
        data.mnist("test", folder)


def test_without_any_name_the_folder_is_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.delenv("GENREF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data.mnist("test")
    assert sorted(path.name for path in (tmp_path / "genref/mnist").iterdir()) == [f"{name}.gz" for name in TEST]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("split", ["valid", "t10k", 1])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(ValueError, match='split must be "train" or "test", got '):
        data.mnist(split)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-20], "damaged"),
        (lambda raw: raw[:40] + bytes([raw[40] ^ 255]) + raw[41:], "damaged"),
        (lambda raw: b"<html>not found</html>", r"damaged \(Not a gzip"),
        (lambda raw: gzip.compress(b"<html>not found</html>"), "not an IDX file of bytes"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-7]), "3913 entries where its header says 3920"),
        (lambda raw: gzip.compress(b"\x00\x00\x0d\x03" + gzip.decompress(raw)[4:]), "not an IDX file of bytes"),
        (lambda raw: gzip.compress(b"\x00\x00\x08\x03\x00"), "not an IDX file of bytes"),
    ],
    ids=["truncated", "a byte", "not gzip", "not idx", "short", "other type", "header only"],
)
def test_a_damaged_file_is_named(folder, damage, message):
    path = folder / f"{TEST[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as raised:
        data.mnist("test", folder)
    assert str(path) in str(raised.value)


def test_images_and_labels_must_belong_together(folder, small):
    (folder / f"{TEST[1]}.gz").write_bytes(gzip.compress(idx(small[1][:4])))
    with pytest.raises(ValueError, match=r"n images and n labels, got shapes \(5, 28, 28\) and \(4,\)"):
        data.mnist("test", folder)


def test_a_file_of_the_size_of_mnist_must_be_mnist(folder):
    (folder / f"{TEST[0]}.gz").write_bytes(gzip.compress(idx(torch.zeros(10_000, 28, 28, dtype=torch.uint8)), 1))
    with pytest.raises(ValueError, match="is not the file of MNIST"):
        data.mnist("test", folder)


def test_what_is_missing_is_downloaded_once(server, tmp_path, small):
    for _ in range(2):
        images, _ = data.mnist("test", tmp_path / "new")
        assert torch.equal((images * 255).round().byte(), small[0])
    assert server.asked == [(f"{name}.gz", 0) for name in TEST]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_cut_short_goes_on(server, tmp_path, ranges):
    server.breaks, server.ranges = 300, ranges
    with pytest.raises(ConnectionError, match="broke off after 300 of"):
        data.mnist("test", tmp_path)
    server.breaks = 10**6
    assert len(data.mnist("test", tmp_path).labels) == 5
    assert server.asked[:2] == [(f"{TEST[0]}.gz", 0), (f"{TEST[0]}.gz", 300)]
    assert not list(tmp_path.glob("*.part"))


def test_a_download_that_was_complete_is_used(server, tmp_path):
    name = f"{TEST[0]}.gz"
    (tmp_path / f"{name}.part").write_bytes(server.holds[name])
    assert len(data.mnist("test", tmp_path).labels) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [(gzip.compress(b"other"), "wrong SHA-256"), (b"other", r"damaged \(Not a gzip")],
    ids=["other", "not gzip"],
)
def test_a_wrong_download_is_thrown_away(server, tmp_path, monkeypatch, content, message):
    server.holds[f"{TEST[0]}.gz"] = content
    with pytest.raises(ConnectionError, match=message):
        data.mnist("test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_next_mirror_is_asked_when_one_has_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", [data.MIRRORS[0] + "nothing/", *data.MIRRORS])
    assert len(data.mnist("test", tmp_path).labels) == 5


def test_offline_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", ["http://127.0.0.1:9/"])
    with pytest.raises(ConnectionError, match="by the argument folder or by GENREF_DATA") as raised:
        data.mnist("train", tmp_path)
    assert "train-images-idx3-ubyte is not in" in str(raised.value)


def test_a_terminal_sees_the_progress(server, tmp_path, monkeypatch, capsys):
    data.mnist("test", tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    data.mnist("test", tmp_path / "told")
    said = capsys.readouterr().err
    assert f"\r{TEST[0]}.gz [{'#' * 30}] 0.0 MB\n" in said
