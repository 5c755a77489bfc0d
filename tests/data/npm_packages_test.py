import base64
import hashlib
import io
import json
import tarfile

import pytest

from parti_tf.data.npm_packages import NpmPackage


def _archive():
    file = io.BytesIO()
    content = json.dumps({"a": 1}).encode()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/data/en.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


ARCHIVE = _archive()
PACKAGE = NpmPackage("@scope/words", "1.2.3", "sha512-" + base64.b64encode(hashlib.sha512(ARCHIVE).digest()).decode())


@pytest.fixture
def install_npm(tmp_path, monkeypatch):
    """Gives a function that makes `npm` a shell script with the given body, or makes it absent."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(body):
        script = folder / "npm"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    return install


def test_archive_has_the_name_npm_gives_it(tmp_path):
    assert PACKAGE.archive_path(tmp_path).name == "scope-words-1.2.3.tgz"
    assert str(PACKAGE) == "@scope/words@1.2.3"


def test_download_keeps_what_npm_packs(tmp_path, install_npm):
    (tmp_path / "registry.tgz").write_bytes(ARCHIVE)
    log = tmp_path / "log"
    install_npm(f'echo "$1 $2" >> {log}\n/bin/cp {tmp_path}/registry.tgz "$4/scope-words-1.2.3.tgz"')
    path = PACKAGE.download(tmp_path / "downloads")
    assert path.read_bytes() == ARCHIVE
    assert PACKAGE.download(tmp_path / "downloads") == path
    assert log.read_text() == "pack @scope/words@1.2.3\n"  # once
    assert list(path.parent.iterdir()) == [path]
    assert PACKAGE.read_json(path.parent, "data/en.json") == {"a": 1}
    with pytest.raises(FileNotFoundError, match=r"scope-words-1.2.3.tgz has no file data/fr.json"):
        PACKAGE.read_json(path.parent, "data/fr.json")


def test_no_npm_is_told(tmp_path, install_npm):
    with pytest.raises(FileNotFoundError, match=r"npm is not installed; it is needed to get @scope/words@1.2.3"):
        PACKAGE.download(tmp_path / "downloads")
    assert not (tmp_path / "downloads").exists()


def test_no_network_is_told_in_one_line(tmp_path, install_npm):
    errors = r"npm warn old\nnpm error code ENOTFOUND\nnpm error network"
    install_npm(f"echo half > $4/scope-words-1.2.3.tgz\nprintf '{errors}' >&2\nexit 1")
    with pytest.raises(
        ConnectionError, match=r"get @scope/words@1.2.3; .* npm says: npm error code ENOTFOUND npm"
    ) as error:
        PACKAGE.download(tmp_path / "downloads")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "downloads").iterdir())


def test_archive_that_is_not_the_pinned_one_is_removed(tmp_path):
    path = PACKAGE.archive_path(tmp_path)
    path.write_bytes(ARCHIVE[:-1])
    with pytest.raises(
        ValueError, match=r"scope-words-1.2.3.tgz has sha512-.*, but @scope/words@1.2.3 is pinned to sha"
    ):
        PACKAGE.download(tmp_path)
    assert not path.exists()
