"""Packages of the npm registry, pinned by version and by the sha512 of their archive."""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class NpmPackage:
    """One pinned package.

    Attributes:
      name: its name in the registry, scope included.
      version: its exact version.
      integrity: `sha512-` and the base64 digest of its archive, as npm prints it.
    """

    name: str
    version: str
    integrity: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def archive_path(self, folder: str | os.PathLike) -> Path:
        """Gives where in a folder the archive is kept, under the name `npm pack` gives it."""
        return Path(folder) / f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def download(self, folder: str | os.PathLike) -> Path:
        """Gets the archive with npm, unless it is already there, and gives its path.

        Raises:
          FileNotFoundError: npm is not installed.
          ConnectionError: npm could not get the package.
          ValueError: the archive is not the pinned one; it is removed.
        """
        path = self.archive_path(folder)
        if not path.exists():
            self._pack(path)
        digest = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if digest != self.integrity:
            path.unlink()
            raise ValueError(f"{path} has {digest}, but {self} is pinned to {self.integrity}; it was removed")
        return path

    def _pack(self, path: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is not installed; it is needed to get {self}")
        aside = path.with_name(path.name + ".unfinished")
        aside.mkdir(parents=True, exist_ok=True)
        try:
            command = [npm, "pack", str(self), "--pack-destination", os.fspath(aside), "--fetch-retries=1"]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0 or not (aside / path.name).exists():
                lines = [line for line in result.stderr.splitlines() if line.startswith("npm error")]
                reason = " ".join(" ".join(lines or [result.stderr]).split())[:300]
                raise ConnectionError(f"npm could not get {self}; is the network there? npm says: {reason}")
            os.replace(aside / path.name, path)
        finally:
            shutil.rmtree(aside)

    def read_json(self, folder: str | os.PathLike, member: str) -> Any:
        """Gives the content of a JSON file inside the downloaded archive.

        Raises:
          FileNotFoundError: the archive is not in the folder, or has no such file.
        """
        path = self.archive_path(folder)
        with tarfile.open(path) as archive:
            try:
                file = archive.extractfile(f"package/{member}")
            except KeyError:
                raise FileNotFoundError(f"{path} has no file {member}") from None
            assert file is not None, "a JSON file is no folder"
            return json.load(file)
