r"""Handwritten digits: 1797 small ones in the package, and MNIST from a folder or the network."""

import gzip
import hashlib
import math
import os
import struct
import sys
import urllib.request
import zlib
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

__all__ = ["Images", "digits", "mnist"]

MIRRORS = ["https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"]
SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
# SHA-256 of the files once decompressed: the same bytes have been compressed in several ways.
CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Images(NamedTuple):
    r"""Grey images with values in $[0,1]$, of torch's default dtype, and the digit of each."""

    images: Float[Tensor, "n height width"]
    labels: Int[Tensor, " n"]


def digits() -> Images:
    r"""Returns the 1797 digits of 8×8 pixels of the UCI repository, in sixteenths from 0 to 1.

    They come with the package, under the licence CC BY 4.0, and need no network.
    """
    folder = files("genref.data")
    images, labels = (_idx(gzip.decompress((folder / f"digits-{part}.idx.gz").read_bytes())) for part in _PARTS)
    return _scaled(images, labels, 16)


def mnist(split: str, folder: str | os.PathLike[str] | None = None) -> Images:
    r"""Returns the 60 000 images of 28×28 pixels for training, or the 10 000 for testing.

    Grey values are in steps of 1/255. The two files of a split are read from the folder, as they
    are or compressed by gzip. What is missing is downloaded into it once, 10 MB for training and
    2 MB for testing; a download cut short goes on where it stopped. Files of the size of MNIST must
    have the checksum of MNIST; smaller ones are read as they are.

    Arguments:
        split: `"train"` or `"test"`.
        folder: Where the files are, or are to be; else the folder that `GENREF_DATA` names, else
            `genref/mnist` in the user's cache.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "genref/mnist"
    place = Path(folder or os.environ.get("GENREF_DATA") or cache).expanduser()
    prefix, size = SPLITS[split]
    names = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    paths = [_found(place, name) or _downloaded(place, name) for name in names]
    images, labels = (_read(path, name, size) for path, name in zip(paths, names, strict=True))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"{paths[0]} and {paths[1]} must hold n images and n labels, got shapes {shapes}")
    return _scaled(images, labels, 255)


_PARTS = ("images", "labels")


def _scaled(images: UInt8[Tensor, "n height width"], labels: UInt8[Tensor, " n"], top: int) -> Images:
    return Images(images.to(torch.get_default_dtype()) / top, labels.long())


def _idx(raw: bytes) -> UInt8[Tensor, "..."]:
    r"""Returns the array of bytes in an IDX file: its shape in the header, then its entries."""
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError("not an IDX file of bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    entries = raw[4 + 4 * raw[3] :]
    if len(entries) != math.prod(shape):
        raise ValueError(f"an IDX file with {len(entries)} entries where its header says {math.prod(shape)}")
    return torch.frombuffer(bytearray(entries), dtype=torch.uint8).reshape(shape)


def _found(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _read(path: Path, name: str, size: int) -> UInt8[Tensor, "..."]:
    try:
        raw = _bytes(path)
        entries = _idx(raw)
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and it is downloaded again") from None
    if len(entries) == size and hashlib.sha256(raw).hexdigest() != CHECKSUMS[name]:
        raise ValueError(f"{path} is not the file of MNIST (its SHA-256 differs): remove it, or name another folder")
    return entries


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix in (".gz", ".part") else raw


def _downloaded(place: Path, name: str) -> Path:
    """The compressed file, from the first mirror that has it; what arrived is kept for later."""
    part, problems = place / f"{name}.gz.part", []
    for mirror in MIRRORS:
        try:
            place.mkdir(parents=True, exist_ok=True)
            _fetch(f"{mirror}{name}.gz", part)
            if hashlib.sha256(_bytes(part)).hexdigest() == CHECKSUMS[name]:
                return part.replace(place / f"{name}.gz")
            problem = "wrong SHA-256"
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            problem = f"damaged ({error})"
        except (OSError, HTTPException) as error:
            problems.append(f"{mirror}: {getattr(error, 'reason', error)}")
            continue
        part.unlink()
        problems.append(f"{mirror}: {problem}")
    raise ConnectionError(
        f"{name} is not in {place} and was not downloaded ({'; '.join(problems)}): put the file there, "
        "or name a folder that has it, by the argument folder or by GENREF_DATA"
    )


def _fetch(url: str, part: Path) -> None:
    """Downloads a file, or the rest of it."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310  (ours)
    try:
        answer = urllib.request.urlopen(request, timeout=30)  # noqa: S310  (the addresses are ours)
    except HTTPError as error:
        if error.code != 416:  # nothing is left to send
            raise
        error.close()
        return
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        have = have if answer.status == 206 else 0
        whole = have + int(answer.headers["Content-Length"] or 0)
        while block := answer.read(1 << 16):
            file.write(block)
            have += len(block)
            _show(url.rpartition("/")[2], have, whole)
    if have < whole:
        raise OSError(f"the connection broke off after {have:,} of {whole:,} bytes; call again to go on")


def _show(name: str, have: int, whole: int) -> None:
    if sys.stderr.isatty():
        bar = "#" * (30 * have // max(whole, have))
        print(f"\r{name} [{bar:<30}] {have / 1e6:.1f} MB", end="\n" if have >= whole else "", file=sys.stderr)
