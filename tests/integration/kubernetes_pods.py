"""A pod of the stand-in for Kubernetes: its container is a process of this machine, without an image around it.

What of a kubelet matters to the command in a pod is done as kubelets do it: variables, signals, exit codes.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

INDEX_KEY = "batch.kubernetes.io/job-completion-index"


class Pod:
    """Runs from the moment that it is made. `manifest` is what the API shows of it."""

    def __init__(
        self,
        manifest: dict[str, Any],
        *,
        image: Path,
        machine: Mapping[str, str],
        secrets: Mapping[str, Mapping[str, str]],
        log: Path,
    ) -> None:
        """`image`: the folder that the container starts in. `machine`: variables that stand for those of the image."""
        self.manifest, self.log = manifest, log
        self._deadline: float | None = None
        container = manifest["spec"]["containers"][0]
        variables = container_variables(manifest, secrets)
        command = [expand(word, variables) for word in (*container["command"], *container.get("args", ()))]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=image,
                env={**machine, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        manifest["status"] = {"phase": "Running", "conditions": [], "containerStatuses": [self._container(running={})]}

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def index(self) -> int:
        return int(self.manifest["metadata"]["annotations"][INDEX_KEY])

    @property
    def phase(self) -> str:
        return str(self.manifest["status"]["phase"])

    @property
    def has_ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_deleted(self) -> bool:
        return "deletionTimestamp" in self.manifest["metadata"]

    @property
    def is_disrupted(self) -> bool:
        return any(condition["type"] == "DisruptionTarget" for condition in self.manifest["status"]["conditions"])

    @property
    def exit_code(self) -> int:
        return int(self.manifest["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])

    def delete(self, *, disruption: str | None = None) -> None:
        """SIGTERM once, SIGKILL when the grace period is over; the pod goes when its container has ended."""
        if disruption is not None:
            self.manifest["status"]["conditions"].append(
                {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            )
        if not self.is_deleted:
            self.manifest["metadata"]["deletionTimestamp"] = now()
            if not self.has_ended:
                self._deadline = time.monotonic() + self.manifest["spec"]["terminationGracePeriodSeconds"]
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """The container has ended when this returns."""
        self._process.kill()
        self._process.wait()
        self.observe()

    def observe(self) -> None:
        """Takes note of the container's end."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._process.kill()
        code = self._process.poll()
        if code is None or self.has_ended:
            return
        kill_session(self._process.pid)
        ended = {"exitCode": code if code >= 0 else 128 - code, "finishedAt": now()}
        status = self.manifest["status"]
        status["phase"] = "Failed" if code else "Succeeded"
        status["containerStatuses"] = [self._container(terminated=ended)]

    def _container(self, **state: Any) -> dict[str, Any]:
        return {"name": self.manifest["spec"]["containers"][0]["name"], "state": state}


def container_variables(manifest: Mapping[str, Any], secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Secrets first, then the list in its order, each entry seeing those before it."""
    container, metadata = manifest["spec"]["containers"][0], manifest["metadata"]
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= secrets[source["secretRef"]["name"]]
    for entry in container.get("env", ()):
        if "value" in entry:
            variables[entry["name"]] = expand(entry["value"], variables)
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            assert path.startswith("metadata.labels['"), path
            variables[entry["name"]] = metadata["labels"][path.removeprefix("metadata.labels['").removesuffix("']")]
    return variables | {"JOB_COMPLETION_INDEX": metadata["annotations"][INDEX_KEY]}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' expansion of `$(NAME)`, by bytes, slips included (its third_party/forked/golang/expansion)."""
    data, result, place = text.encode(), bytearray(), 0
    while place < len(data):
        if data[place : place + 1] != b"$" or place + 1 == len(data):
            result += data[place : place + 1]
            place += 1
            continue
        following = data[place + 1 : place + 2]
        end = data.find(b")", place + 2) if following == b"(" else -1
        if following == b"$":
            result += b"$"
        elif end >= 0:
            name = data[place + 2 : end].decode()
            result += variables.get(name, f"$({name})").encode()
            place = end - 1
        else:
            result += b"$" + chr(following[0]).encode()  # a byte beyond ASCII becomes a character of its own
        place += 2
    return result.decode(errors="replace")


def kill_session(leader: int) -> None:
    """What the container's first process leaves behind ends with it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            session = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(folder.name), signal.SIGKILL)


def now() -> str:
    """As the API writes times: UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
