"""A stateful Kubernetes API server over HTTP, for the parts that the autoscaler uses.

It keeps objects under resource versions as the real one does: a replace under an
old version is a 409, a scale sub-resource writes through to its workload, a watch
streams what happens after a version and is 410 once that is too old. Faults are
made on purpose: refuse the next writes, drop or expire all watches, hang.
"""

import json
import re
import threading
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z.0-9]+)/v1)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>scale))?$"
)
KINDS = {
    "statefulsets": ("apps/v1", "StatefulSet"),
    "deployments": ("apps/v1", "Deployment"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
}


class KubeApi:
    """The server and its objects; a context manager."""

    def __init__(self):
        self.objects = {}
        self.history = deque(maxlen=1000)
        self.version = 100
        self.oldest_watchable = 0
        self.refusals = deque()
        self.requests = []
        self.changed = threading.Condition(threading.RLock())
        self.watch_generation = 0
        self.num_watches = 0
        handler = type("Handler", (_Handler,), {"kube": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.watch_generation += 1
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def client(self):
        configuration = client.Configuration(host=f"http://127.0.0.1:{self.server.server_port}")
        configuration.retries = False
        return client.ApiClient(configuration)

    # What a test does to the cluster.

    def add(self, plural, name, **content):
        with self.changed:
            return self._store(plural, name, {"metadata": {"name": name}, **content}, "ADDED")

    def scale(self, plural, name, replicas):
        """Somebody else scales a workload."""
        with self.changed:
            found = json.loads(json.dumps(self.objects[plural, name]))
            found["spec"]["replicas"] = replicas
            self._store(plural, name, found, "MODIFIED")

    def remove(self, plural, name):
        with self.changed:
            found = self.objects[plural, name]
            self._store(plural, name, found, "DELETED")
            del self.objects[plural, name]

    def replicas(self, plural, name):
        return self.objects[plural, name]["spec"]["replicas"]

    def until(self, is_so):
        """Block until something about the objects is so."""
        with self.changed:
            assert self.changed.wait_for(is_so, timeout=30.0)

    def refuse(self, method, plural, status, times=1):
        self.refusals.extend([(method, plural, status)] * times)

    def drop_watches(self, *, expired=False):
        with self.changed:
            self.watch_generation += 1
            if expired:
                self.oldest_watchable = self.version + 1
                self.version += 1
            self.changed.notify_all()

    # What the handler does.

    def _store(self, plural, name, content, event):
        self.version += 1
        api_version, kind = KINDS[plural]
        content = {**content, "apiVersion": api_version, "kind": kind}
        content["metadata"] = {
            **content["metadata"],
            "namespace": "ns",
            "resourceVersion": str(self.version),
        }
        self.objects[plural, name] = content
        self.history.append((self.version, event, plural, content))
        self.changed.notify_all()
        return content


class _Handler(BaseHTTPRequestHandler):
    kube: KubeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        match, query = self._route()
        if match is None:
            return None
        plural, name = match["plural"], match["name"]
        if name is None:
            selector = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
            if query.get("watch", ["false"])[0].lower() in {"true", "1"}:
                return self._watch(plural, selector, int(query["resourceVersion"][0]))
            return self._list(plural, selector)
        with self.kube.changed:
            found = self.kube.objects.get((plural, name))
        if found is None:
            return self._fail(HTTPStatus.NOT_FOUND)
        return self._answer(_scale_of(found) if match["sub"] else found)

    def do_PUT(self):
        match, _ = self._route()
        if match is None:
            return None
        body, key = self._body(), (match["plural"], match["name"])
        with self.kube.changed:
            found = self.kube.objects.get(key)
            if found is None:
                return self._fail(HTTPStatus.NOT_FOUND)
            asked = body["metadata"].get("resourceVersion")
            if asked and asked != found["metadata"]["resourceVersion"]:
                return self._fail(HTTPStatus.CONFLICT)
            if match["sub"]:
                spec = {**found["spec"], "replicas": body["spec"]["replicas"]}
                return self._answer(
                    _scale_of(self.kube._store(*key, {**found, "spec": spec}, "MODIFIED"))
                )
            return self._answer(self.kube._store(*key, body, "MODIFIED"))

    def do_POST(self):
        match, _ = self._route()
        if match is None:
            return None
        body = self._body()
        with self.kube.changed:
            name = body["metadata"].get("name")
            name = name or f"{body['metadata']['generateName']}{self.kube.version}"
            if (match["plural"], name) in self.kube.objects:
                return self._fail(HTTPStatus.CONFLICT)
            body["metadata"]["name"] = name
            return self._answer(
                self.kube._store(match["plural"], name, body, "ADDED"), HTTPStatus.CREATED
            )

    def do_PATCH(self):
        match, _ = self._route()
        if match is None:
            return None
        body, key = self._body(), (match["plural"], match["name"])
        with self.kube.changed:
            found = self.kube.objects.get(key)
            if found is None:
                return self._fail(HTTPStatus.NOT_FOUND)
            notes = {**found["metadata"].get("annotations", {}), **body["metadata"]["annotations"]}
            found = {**found, "metadata": {**found["metadata"], "annotations": notes}}
            return self._answer(self.kube._store(*key, found, "MODIFIED"))

    def _route(self):
        url = urlsplit(self.path)
        match = PATH.match(url.path)
        if match is None or match["plural"] not in KINDS:
            self._body()
            return self._fail(HTTPStatus.NOT_FOUND), None
        self.kube.requests.append((self.command, match["plural"]))
        for refusal in list(self.kube.refusals):
            if refusal[:2] == (self.command, match["plural"]):
                self.kube.refusals.remove(refusal)
                self._body()
                return self._fail(refusal[2]), None
        return match, parse_qs(url.query)

    def _list(self, plural, selector):
        with self.kube.changed:
            items = [
                found
                for (kind, name), found in self.kube.objects.items()
                if kind == plural and (not selector or name == selector)
            ]
            version = str(self.kube.version)
        api_version, kind = KINDS[plural]
        self._answer(
            {
                "apiVersion": api_version,
                "kind": f"{kind}List",
                "metadata": {"resourceVersion": version},
                "items": items,
            }
        )

    def _watch(self, plural, selector, since):
        with self.kube.changed:
            generation, too_old = self.kube.watch_generation, since < self.kube.oldest_watchable
            self.kube.num_watches += 1
            self.kube.changed.notify_all()
        if too_old:
            return self._fail(HTTPStatus.GONE)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            with self.kube.changed:
                news = [entry for entry in self.kube.history if entry[0] > since]
                if not news and self.kube.watch_generation == generation:
                    self.kube.changed.wait(timeout=5.0)
                if self.kube.watch_generation != generation:
                    return self.wfile.write(b"0\r\n\r\n")
            for version, event, kind, found in news:
                since = version
                if kind == plural and (not selector or found["metadata"]["name"] == selector):
                    line = json.dumps({"type": event, "object": found}).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    self.wfile.flush()

    def _body(self):
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length)) if length else None

    def _fail(self, status):
        status = HTTPStatus(status)
        body = {"kind": "Status", "status": "Failure", "code": status, "reason": status.phrase}
        self._answer(body, status)

    def _answer(self, body, status=HTTPStatus.OK):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _scale_of(found):
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": found["spec"]["replicas"]},
        "status": {"replicas": found["spec"]["replicas"]},
    }
