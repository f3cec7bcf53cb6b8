"""The store: what a program did, kept under the hash of all that could change it, beside a record of what it read."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

MONTH = 30 * 86400


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


class Store:
    """Entries are files named by their key; each carries its own checksum, so a damaged one is only a miss."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = Path(os.environ.get("GENREF_STORE") or root / ".cache" / "genref").absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.states: dict[tuple[str, str], str] = {}

    def file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def relative(self, path: str) -> str:
        return os.path.relpath(path, self.root) if path.startswith(f"{self.root}{os.sep}") else path

    def state(self, kind: str, path: str) -> str:
        """The present state of something a program once read, looked up once a build."""
        if (kind, path) not in self.states:
            place = self.root / path
            if kind == "env":
                state = repr(os.environb.get(os.fsencode(path)))
            elif kind == "folder":
                state = digest("\0".join(sorted(os.listdir(place)))) if place.is_dir() else "gone"
            elif kind == "absent":
                state = "" if not os.path.lexists(place) else "present"
            else:
                state = digest(place.read_bytes()) if place.is_file() else "gone"
            self.states[kind, path] = state
        return self.states[kind, path]

    def load(self, key: str) -> tuple[dict[str, Any] | None, str]:
        """The entry of a key, or None and why there is none."""
        file = self.file(key)
        try:
            checksum, _, body = file.read_text().partition("\n")
        except FileNotFoundError:
            return None, "its code, its seed or its libraries are new to the store"
        except (OSError, UnicodeDecodeError):
            checksum, body = "", ""
        if checksum != digest(body):
            return None, "its entry in the store was damaged"
        entry: dict[str, Any] = json.loads(body)
        for kind, path, state in entry["reads"]:
            if self.state(kind, path) != state:
                return None, f"{path} now exists" if kind == "absent" else f"{path} changed"
        with contextlib.suppress(FileNotFoundError):  # another build may just have dropped it
            if time.time() - file.stat().st_mtime > 86400:
                os.utime(file)
        return entry, ""

    def save(self, key: str, entry: dict[str, Any]) -> None:
        """Writes an entry whole or not at all."""
        body = json.dumps(entry)  # in its order, which the site shows
        file = self.file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        with os.fdopen(handle, "w") as out:
            out.write(digest(body) + "\n" + body)
        os.replace(name, file)

    def forget(self) -> None:
        """Drops entries unused for 30 days, and what a killed build left."""
        for file in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another build may just have dropped it
                age = time.time() - file.stat().st_mtime
                if age > MONTH or (file.name.startswith(".new-") and age > 3600):
                    file.unlink()
        for folder in self.folder.glob("work-*"):
            if not _alive(int(folder.name.split("-")[1])):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
