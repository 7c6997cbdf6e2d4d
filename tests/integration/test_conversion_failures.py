"""Conversions whose storage gives out: one clear message, nothing lost, and the same bytes once the cause is gone."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.conftest import find_program
from tests.integration.conversions import command, contents, make_corpus, run
from tests.integration.s3_server import S3Server

ON_A_SMALL_DISK = """
mount -t tmpfs -o size=1m tmpfs {disk} || exit 77
{convert}
code=$?
find {disk} -name '*.part' | grep . && exit 78
mount -o remount,size=64m {disk}
{convert} || exit 79
cp -r {disk}/. {copy}
exit $code
"""
"""In a mount namespace of its own, which takes the disk with it."""


def test_a_full_disk_is_named_and_room_lets_it_go_on(tmp_path: Path) -> None:
    if find_program("unshare") is None:
        pytest.skip("no unshare here, without which no disk can be made; test_storage.py has the message")
    corpus, disk, copy = make_corpus(tmp_path / "tiny"), tmp_path / "disk", tmp_path / "copy"
    run(corpus, tmp_path / "whole")
    disk.mkdir()
    copy.mkdir()
    convert = shlex.join(command(corpus, disk / "out", "--workers", "2"))
    script = ON_A_SMALL_DISK.format(disk=disk, copy=copy, convert=convert)
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may not mount a disk; test_storage.py has the message")
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "make room" in done.stderr
    assert done.stderr.count("storage failed: ") == 1
    assert "Traceback" not in done.stderr
    assert contents(copy / "out") == contents(tmp_path / "whole")


def test_a_store_that_refuses_us_is_named_before_any_work(
    s3: S3Server, other_credentials: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, url = make_corpus(tmp_path / "tiny"), f"{s3.make_bucket()}/out"
    assert main(["convert", str(corpus), url, "--format", "zarr"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"refused: {url}/manifest.json: access is denied")
    assert "check credentials and permissions" in message
    assert s3.files().find(url) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another way to be refused a folder; see test_storage.py")
def test_a_disk_that_is_mounted_read_only_is_refused_before_any_work(tmp_path: Path) -> None:
    corpus, disk = make_corpus(tmp_path / "tiny"), tmp_path / "disk"
    disk.mkdir()
    convert = shlex.join(command(corpus, disk / "out"))
    script = f"mount -t tmpfs -o ro tmpfs {disk} || exit 77\n{convert}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this user may not mount a disk")
    assert done.returncode == 2
    assert f"refused: {disk}/out: cannot be written (Read-only file system)" in done.stderr
