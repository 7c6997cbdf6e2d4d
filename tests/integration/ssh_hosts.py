"""Real machines as far as a network can tell: namespaces with an address and an sshd each, joined by a switch.

No way leads out of the switch. Files and users are those of the machine below, so a checkout lies where it lay.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.integration.daemons import start_daemon, with_system_folders
from tests.integration.practice import eventually

PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ip": "iproute2"}
"""Each with the package that it comes from."""
SSHD = """\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
UseDNS no
PidFile none
MaxStartups 100
SetEnv HOME={folder}
"""
"""A home of its own: what the user's shell does on its own start may take long, and leave a lock when it is killed."""
SSH = """\
Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  IdentityFile {folder}/key
"""


@dataclass(frozen=True)
class SshHosts:
    """`names[0]` is where commands are given, the others are named in `config`, an ssh configuration."""

    config: Path
    prefix: str
    names: tuple[str, ...]
    stack: ExitStack
    """Ends what was started."""

    def address(self, name: str) -> str:
        return f"10.77.0.{1 + self.names.index(name)}"

    def command(self, *command: str) -> list[str]:
        """The command, on the machine where commands are given."""
        return [_ip(), "netns", "exec", self._space(self.names[0]), *command]

    def cut(self, name: str) -> None:
        """Pulls the cable: nothing arrives, and nobody is told."""
        self._set_link(name, "down")

    def heal(self, name: str) -> None:
        self._set_link(name, "up")

    def crash(self, name: str) -> None:
        """Ends everything that runs there at once, sshd included; whoever asks then is refused."""
        _kill_all(self._space(name))

    def serve(self, name: str) -> None:
        """Starts the sshd of a host, or starts it again after a crash; returns when it answers."""
        environment = with_system_folders({key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
        sshd = shutil.which("sshd", path=environment["PATH"])
        assert sshd is not None
        folder = self.config.parent
        command = ["ip", "netns", "exec", self._space(name), sshd, "-D", "-f", str(folder / "sshd_config"), "-e"]
        start_daemon(self.stack, command, environment=environment, log=folder / f"{name}.log")
        asked = self.command("ssh", "-F", str(self.config), "-o", "ConnectTimeout=5", name, "true")
        eventually(lambda: subprocess.run(asked, capture_output=True).returncode == 0, what=f"{name} answers")

    def _space(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def _set_link(self, name: str, state: str) -> None:
        _run("-netns", f"{self.prefix}switch", "link", "set", f"to-{name}", state)


@contextmanager
def ssh_hosts(*names: str) -> Iterator[SshHosts]:
    """The first takes commands and runs no sshd. Ended with everything that ran on any of them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ssh-")))
        hosts = SshHosts(folder / "config", f"w{os.getpid()}", names, stack)
        _connect(stack, hosts)
        _write_keys(folder)
        hosts.config.write_text(
            SSH.format(folder=folder) + "".join(f"Host {name}\n  HostName {hosts.address(name)}\n" for name in names)
        )
        (folder / "sshd_config").write_text(SSHD.format(folder=folder))
        Path("/run/sshd").mkdir(exist_ok=True)  # without it sshd does not start
        for name in names[1:]:
            hosts.serve(name)
        yield hosts


def _connect(stack: ExitStack, hosts: SshHosts) -> None:
    switch = f"{hosts.prefix}switch"
    _make_space(stack, switch)
    _run("-netns", switch, "link", "add", "bridge", "type", "bridge")
    _run("-netns", switch, "link", "set", "bridge", "up")
    for name in hosts.names:
        space, port = f"{hosts.prefix}{name}", f"to-{name}"
        _make_space(stack, space)
        _run("-netns", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
        _run("-netns", switch, "link", "set", port, "master", "bridge", "up")
        _run("-netns", space, "addr", "add", f"{hosts.address(name)}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _run("-netns", space, "link", "set", link, "up")


def _make_space(stack: ExitStack, space: str) -> None:
    _run("netns", "add", space)
    stack.callback(_remove_space, space)


def _remove_space(space: str) -> None:
    _kill_all(space)
    _run("netns", "delete", space)


def _kill_all(space: str) -> None:
    for pid in _run("netns", "pids", space).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _write_keys(folder: Path) -> None:
    for name in ("key", "host_key"):
        command: Sequence[str] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=60)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")


def _ip() -> str:
    path = shutil.which("ip", path=with_system_folders(os.environ)["PATH"])
    assert path is not None
    return path


def _run(*arguments: str) -> str:
    """Of `ip`, whose error says more than its exit code."""
    done = subprocess.run([_ip(), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
