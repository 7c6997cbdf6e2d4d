"""A stand-in for the API server of Kubernetes, to which the real kubectl speaks; pods are processes of this machine.

It shows that what we submit is accepted by kubectl, runs, ends, restarts and answers as the launcher expects. It shows
nothing of admission, scheduling, images, volumes, limits or the network between pods, and its controllers are ours.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.integration.kubernetes_controllers import JobSetRun
from tests.integration.kubernetes_pods import Pod

NAMESPACE = "training"
LOOK_EVERY_SECONDS = 0.02
JOBSETS = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
VERBS = ["create", "delete", "get", "list"]
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": "jobset.x-k8s.io",
                "versions": [{"groupVersion": "jobset.x-k8s.io/v1alpha2", "version": "v1alpha2"}],
                "preferredVersion": {"groupVersion": "jobset.x-k8s.io/v1alpha2", "version": "v1alpha2"},
            }
        ],
    },
    f"/api/v1/namespaces/{NAMESPACE}": {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": NAMESPACE}},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": VERBS},
            {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]},
        ],
    },
    "/apis/jobset.x-k8s.io/v1alpha2": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "jobset.x-k8s.io/v1alpha2",
        "resources": [
            {"name": "jobsets", "singularName": "jobset", "namespaced": True, "kind": "JobSet", "verbs": VERBS}
        ],
    },
}
"""What kubectl asks first: which kinds there are, and whether it is the namespace that is missing."""
NO_SCHEMAS = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""kubectl checks a manifest by the server's schemas where it has any; an empty message has none."""


class KubernetesServer:
    """The cluster's state. `machine`: variables of every container, `image`: the folder that it starts in."""

    def __init__(self, folder: Path, *, machine: Mapping[str, str], image: Path) -> None:
        self.posted: dict[str, Any] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.lock = threading.RLock()
        self._folder, self._machine, self._image = folder, dict(machine), image
        self._runs: dict[str, JobSetRun] = {}

    def create(self, posted: dict[str, Any]) -> dict[str, Any]:
        run = JobSetRun(posted, namespace=NAMESPACE, make_pod=self._make_pod)
        self.posted[run.name] = posted
        self._runs[run.name] = run
        return run.manifest

    def run(self, name: str) -> JobSetRun | None:
        return self._runs.get(name)

    def pods(self, labels: Mapping[str, str]) -> list[Pod]:
        every = [pod for run in self._runs.values() for pod in run.pods]
        return [pod for pod in every if labels.items() <= pod.manifest["metadata"]["labels"].items()]

    def pod(self, name: str) -> Pod | None:
        return next((pod for pod in self.pods({}) if pod.name == name), None)

    def everything_said(self) -> str:
        """The logs of all pods there were."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in logs)

    def evict(self, job: str, index: int) -> None:
        """As the eviction API and the scheduler's preemption do it."""
        with self.lock:
            pod = next(pod for pod in self._runs[job].pods if pod.index == index)
            pod.delete(disruption="EvictionByEvictionAPI")

    def admit(self, job: str) -> None:
        """As Kueue does it."""
        with self.lock:
            self._runs[job].manifest["spec"]["suspend"] = False

    def advance(self) -> None:
        with self.lock:
            for name, run in list(self._runs.items()):
                run.advance()
                if run.is_gone:
                    del self._runs[name]

    def kill_all(self) -> None:
        with self.lock:
            for pod in self.pods({}):
                pod.kill()

    def _make_pod(self, manifest: dict[str, Any]) -> Pod:
        log = self._folder / f"{manifest['metadata']['name']}.log"
        return Pod(manifest, image=self._image, machine=self._machine, secrets=self.secrets, log=log)


@contextmanager
def kubernetes_server(
    folder: Path, *, machine: Mapping[str, str], image: Path
) -> Iterator[tuple[KubernetesServer, Path]]:
    """The cluster, and the kubeconfig by which kubectl finds it."""
    cluster = KubernetesServer(folder, machine=machine, image=image)
    handler = type("ClusterHandler", (_Handler,), {"cluster": cluster})
    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": LOOK_EVERY_SECONDS}),
            threading.Thread(target=_advance_until, args=(cluster, over)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield cluster, _write_kubeconfig(folder / "kubeconfig", port=server.server_port)
        finally:
            over.set()
            server.shutdown()
            for thread in threads:
                thread.join()
            cluster.kill_all()


def _advance_until(cluster: KubernetesServer, over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY_SECONDS):
        cluster.advance()


def _write_kubeconfig(path: Path, *, port: int) -> Path:
    context = {"cluster": "stand-in", "namespace": NAMESPACE, "user": "nobody"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "stand-in", "context": context}],
        "current-context": "stand-in",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


class _Handler(BaseHTTPRequestHandler):
    """The few requests that kubectl makes for us."""

    cluster: KubernetesServer

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        if place.path in DISCOVERY:
            self._answer(DISCOVERY[place.path])
        elif place.path == "/openapi/v2":
            self._send(b"", kind=NO_SCHEMAS)
        elif place.path == PODS:
            labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
            with self.cluster.lock:
                items = [pod.manifest for pod in self.cluster.pods(labels)]
                self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        elif (match := re.fullmatch(rf"{PODS}/([^/]+)(/log)?", place.path)) and (pod := self.cluster.pod(match[1])):
            self._log(pod, query) if match[2] else self._answer(pod.manifest)
        elif (match := re.fullmatch(rf"{JOBSETS}/([^/]+)", place.path)) and (run := self.cluster.run(match[1])):
            with self.cluster.lock:
                self._answer(run.manifest)
        else:
            self._not_found()

    def do_POST(self) -> None:
        posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if urlsplit(self.path).path != JOBSETS:
            self._not_found()
            return
        with self.cluster.lock:
            self._answer(self.cluster.create(posted), code=201)

    def do_DELETE(self) -> None:
        options = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        run = self.cluster.run(urlsplit(self.path).path.removeprefix(f"{JOBSETS}/"))
        if run is None:
            self._not_found()
            return
        assert options["propagationPolicy"] == "Foreground"
        with self.cluster.lock:
            run.delete()
            self._answer(run.manifest)

    def _log(self, pod: Pod, query: Mapping[str, str]) -> None:
        """The end of the log; with `follow` what is added, until the container ends. It closes the connection."""
        tail = int(query.get("tailLines", -1))
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        with pod.log.open("rb") as log:
            lines = log.readlines()
            self.wfile.write(b"".join(lines[max(0, len(lines) - tail) :] if tail >= 0 else lines))
            while query.get("follow") == "true":
                has_ended = pod.has_ended  # asked first, so that nothing is missed that was written meanwhile
                self.wfile.write(log.read())
                if has_ended:
                    break
                time.sleep(LOOK_EVERY_SECONDS)

    def _not_found(self) -> None:
        resource, _, name = urlsplit(self.path).path.rpartition("/")
        kind = "jobsets.jobset.x-k8s.io" if resource == JOBSETS else "the server's resource"
        message = f'{kind} "{name}" not found'
        failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        self._answer(failure | {"message": message}, code=404)

    def _answer(self, answer: Mapping[str, Any], *, code: int = 200) -> None:
        self._send(json.dumps(answer).encode(), code=code)

    def _send(self, body: bytes, *, code: int = 200, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""
