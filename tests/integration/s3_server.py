"""A real S3 server on loopback: Ceph's radosgw before one monitor and one store in memory. It checks signatures.

Own keys, ports and folder; nothing outside that folder is touched, and it goes with the server. Every test that needs
a server takes a bucket of its own in the same one, since starting takes seconds.
"""

import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import fsspec

from tests.integration.daemons import start_daemon, with_system_folders
from tests.integration.practice import eventually
from tests.ports import free_ports

PROGRAMS = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "radosgw": "radosgw", "ceph": "ceph-common"}
"""Program -> the Debian package that has it."""
ACCESS_KEY, SECRET_KEY = "wellspring-tests", "no-secret-of-anybody"
STORE_BYTES = 2 * 2**30
CONFIG = """
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{ports[0]}/0,v1:127.0.0.1:{ports[1]}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
# one copy on one store is all that there is
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {store_bytes}
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {folder}/mon
mon data avail crit = 1
osd data = {folder}/osd
# answers that wait for the client's delayed acknowledgement take 40 ms each without tcp_nodelay
rgw frontends = beast endpoint=127.0.0.1:{ports[2]} tcp_nodelay=1
rgw thread pool size = 32
rgw run sync thread = false
"""


@dataclass(frozen=True)
class S3Server:
    """A running server; `environment` makes S3 clients talk to it."""

    endpoint: str
    environment: Mapping[str, str]

    def make_bucket(self) -> str:
        """The URL of a new, empty bucket."""
        name = f"tests-{uuid.uuid4().hex[:12]}"
        self.files().mkdir(name)
        return f"s3://{name}"

    def files(self, *, key: str = ACCESS_KEY, secret: str = SECRET_KEY) -> Any:
        """A client apart from those that `Storage` makes."""
        return fsspec.filesystem("s3", key=key, secret=secret, endpoint_url=self.endpoint)


@contextmanager
def s3_server(environment: Mapping[str, str]) -> Iterator[S3Server]:
    """Up to the moment when it answers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True)))
        ports, cluster = free_ports(3), str(uuid.uuid4())
        text = CONFIG.format(folder=folder, ports=ports, cluster=cluster, store_bytes=STORE_BYTES)
        (folder / "ceph.conf").write_text(text)
        ceph = _Ceph(stack, folder, with_system_folders(environment) | {"CEPH_CONF": str(folder / "ceph.conf")})
        ceph.start_monitor(ports, cluster)
        ceph.start_store()
        ceph.start_gateway()
        endpoint = f"http://127.0.0.1:{ports[2]}"
        eventually(lambda: _answers(endpoint), what="radosgw answers", within_seconds=180)
        yield S3Server(endpoint, _client_environment(endpoint))


def _client_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass(frozen=True)
class _Ceph:
    """The parts of one cluster, started one after the other."""

    stack: ExitStack
    folder: Path
    environment: Mapping[str, str]

    def start_monitor(self, ports: list[int], cluster: str) -> None:
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")
        everything = [option for part in ("mon", "osd", "mgr") for option in ("--cap", part, "allow *")]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        store = ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *store)
        addresses = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", addresses, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._start("ceph-mon", "-f", "-i", "a")

    def start_store(self) -> None:
        identity = str(uuid.uuid4())
        (self.folder / "osd").mkdir()
        self._run("ceph", "osd", "new", identity)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._start("ceph-osd", "-f", "-i", "0")

    def start_gateway(self) -> None:
        self._start("radosgw", "-f", "-n", "client.admin")
        user = ("--uid=tests", "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._run("radosgw-admin", "-n", "client.admin", "user", "create", *user)

    def _run(self, *command: str) -> None:
        with (self.folder / "commands.log").open("ab") as log:
            subprocess.run(
                command, env=dict(self.environment), stdout=log, stderr=log, check=True, timeout=180, cwd=self.folder
            )

    def _start(self, *command: str) -> None:
        log = self.folder / f"{command[0]}.out"
        start_daemon(self.stack, command, environment=self.environment, log=log)


def _answers(endpoint: str) -> bool:
    try:
        with urlopen(endpoint, timeout=5):
            return True
    except HTTPError:
        return True
    except (URLError, ConnectionError, TimeoutError):
        return False
