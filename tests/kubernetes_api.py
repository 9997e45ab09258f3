"""A Kubernetes API server in memory: the semantics that clients of RayServices and Leases rely on.

Kept: bearer tokens (401) and rights of verbs on resources (403); 404; resource versions, and 409
when one is not the present one; generation, which only changes of `spec` raise; the status
subresource; 422 for invalid objects and 400 for unknown fields; server-side apply with field
managers, its conflicts (409 with causes) and force; watches with bookmarks, and 410 once their
version is older than the history. Not kept: pagination, admission, ownership inside lists (a list
counts as one field), conversion between versions. A thread serves it over HTTP or HTTPS.
"""

import asyncio
import contextlib
import copy
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.system import free_port
from tests.waiting import wait_until

Object = dict[str, Any]
KINDS = {"rayservices": ("ray.io/v1", "RayService"), "leases": ("coordination.k8s.io/v1", "Lease")}
SPEC_FIELDS = {
    "rayservices": {"serveConfigV2", "rayClusterConfig", "upgradeStrategy", "suspend"},
    "leases": {
        "holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions",
    },
}  # fmt: skip
WATCH_PAUSE_S = 0.02


class Refused(Exception):
    """A request that is answered with a `Status`."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None):
        super().__init__(message)
        details = {"causes": causes} if causes else {}
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


@dataclass
class ApiServer:
    """The stored objects, the history of their changes, and who may do what.

    Args:
        rights: resource and verb, such as `rayservices patch`, by token.
        drops: answers that are lost after the request was carried out, by method and resource.
        down: whether every request is answered with 503.
    """

    rights: dict[str, set[str]] = field(default_factory=dict)
    drops: list[str] = field(default_factory=list)
    down: bool = False
    url: str = ""
    requests: list[str] = field(default_factory=list)
    _objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    _history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    _oldest: int = 0
    _version: int = 100
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def allow(self, token: str, **verbs: str) -> None:
        """Give a token rights, such as `rayservices="get patch"`."""
        self.rights[token] = {
            f"{resource.replace('_', '/')} {verb}"
            for resource, given in verbs.items()
            for verb in given.split()
        }

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """Return a copy of an object."""
        with self._lock:
            found = self._objects.get((resource, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found')
            return copy.deepcopy(found)

    def create(self, resource: str, namespace: str, given: Object, manager: str) -> Object:
        """Store a new object."""
        with self._lock:
            metadata = given["metadata"]
            if (resource, namespace, metadata["name"]) in self._objects:
                raise Refused(
                    409, "AlreadyExists", f'{resource} "{metadata["name"]}" already exists'
                )
            if metadata.get("resourceVersion"):
                raise Refused(
                    500,
                    "InternalError",
                    "resourceVersion should not be set on objects to be created",
                )
            made = copy.deepcopy(given)
            made.pop("status", None)
            made["metadata"] |= {"namespace": namespace, "generation": 1}
            _own(made, manager, "Update", _leaves(made))
            self._validate(resource, made)
            return self._store(resource, made, "ADDED")

    def update(
        self, resource: str, namespace: str, name: str, given: Object, manager: str, part: str
    ) -> Object:
        """Replace an object's `spec`, or its `status` with the subresource of that name."""
        with self._lock:
            now = self.get(resource, namespace, name)
            version = given["metadata"].get("resourceVersion")
            if not version:
                raise Refused(
                    422,
                    "Invalid",
                    f'{resource} "{name}" is invalid: metadata.resourceVersion: Invalid value: '
                    "0x0: must be specified for an update",
                )
            self._check_version(resource, now, version)
            before = copy.deepcopy(now)
            now[part] = copy.deepcopy(given.get(part, {}))
            if now == before:
                return now
            changed = {
                path for path, value in _leaves(now).items() if _leaves(before).get(path) != value
            }
            _disown(now, changed, but=manager)
            _own(now, manager, "Update", changed)
            self._validate(resource, now)
            now["metadata"]["generation"] += part == "spec" and now["spec"] != before["spec"]
            return self._store(resource, now, "MODIFIED")

    def apply(
        self, resource: str, namespace: str, name: str, given: Object, manager: str, *, force: bool
    ) -> Object:
        """Apply a part of an object (server-side apply)."""
        with self._lock:
            if (resource, namespace, name) not in self._objects:
                return self.create(resource, namespace, given, manager)
            now = self.get(resource, namespace, name)
            if version := given["metadata"].get("resourceVersion"):
                self._check_version(resource, now, version)
            wanted, found = _leaves(given), _leaves(now)
            conflicts = [
                (other["manager"], path)
                for other in now["metadata"]["managedFields"]
                if (other["manager"], other["operation"]) != (manager, "Apply")
                for path in wanted
                if path in _owned(other) and found.get(path) != wanted[path]
            ]
            if conflicts and not force:
                version = KINDS[resource][0]
                causes = [
                    {
                        "reason": "FieldManagerConflict",
                        "message": f'conflict with "{other}" using {version}',
                        "field": f".{'.'.join(path)}",
                    }
                    for other, path in conflicts
                ]
                message = f"Apply failed with {len(causes)} conflict(s)"
                raise Refused(409, "Conflict", message, causes)
            before = copy.deepcopy(now)
            _disown(now, {path for _, path in conflicts}, but=manager)
            self._drop_released(now, manager, wanted)
            for path, value in wanted.items():
                _set(now, path, value)
            _own(now, manager, "Apply", wanted)
            self._validate(resource, now)
            if now == before:
                return now
            now["metadata"]["generation"] += now["spec"] != before["spec"]
            return self._store(resource, now, "MODIFIED")

    def merge(self, resource: str, namespace: str, name: str, given: Object, manager: str) -> None:
        """Change leaves of an object as `kubectl edit` does: no conflict, others lose the field."""
        with self._lock:
            now = self.get(resource, namespace, name)
            before, leaves = copy.deepcopy(now), _leaves(given)
            for path, value in leaves.items():
                _set(now, path, value)
            _disown(now, leaves, but=manager)
            _own(now, manager, "Update", leaves)
            now["metadata"]["generation"] += now["spec"] != before["spec"]
            self._store(resource, now, "MODIFIED")

    def delete(self, resource: str, namespace: str, name: str) -> None:
        """Remove an object."""
        with self._lock:
            gone = self.get(resource, namespace, name)
            del self._objects[resource, namespace, name]
            self._record(resource, gone, "DELETED")

    def compact(self) -> None:
        """Forget the history, so that a watch from an earlier version is answered with 410."""
        with self._lock:
            self._oldest, self._history = self._version, []

    def events(self, resource: str, after: int) -> tuple[list[tuple[str, Object]], int] | None:
        """Return the changes after a version and the present one; None when it is too old."""
        with self._lock:
            if after < self._oldest:
                return None
            found = [
                (kind, item)
                for version, plural, kind, item in self._history
                if version > after and plural == resource
            ]
            return found, self._version

    def _drop_released(self, now: Object, manager: str, wanted: Mapping[Any, Any]) -> None:
        """Remove fields that a manager applied before, applies no more, and nobody else owns."""
        entries = now["metadata"]["managedFields"]
        is_own = [(each["manager"], each["operation"]) == (manager, "Apply") for each in entries]
        mine = {
            path for each, own in zip(entries, is_own, strict=True) if own for path in _owned(each)
        }
        others = {
            path
            for each, own in zip(entries, is_own, strict=True)
            if not own
            for path in _owned(each)
        }
        for path in mine - set(wanted) - others:
            parent: Any = now
            for key in path[:-1]:
                parent = parent.get(key, {})
            parent.pop(path[-1], None)
        now["metadata"]["managedFields"] = [
            each for each, own in zip(entries, is_own, strict=True) if not own
        ]

    def _check_version(self, resource: str, now: Object, version: str) -> None:
        if version != now["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {resource} "{now["metadata"]["name"]}": the '
                "object has been modified; please apply your changes to the latest version and "
                "try again",
            )

    def _validate(self, resource: str, item: Object) -> None:
        spec, name = item.get("spec", {}), item["metadata"]["name"]
        errors = []
        if resource == "rayservices":
            if "rayClusterConfig" not in spec:
                errors.append("spec.rayClusterConfig: Required value")
            if not isinstance(spec.get("serveConfigV2", ""), str):
                errors.append("spec.serveConfigV2: Invalid value: must be of type string")
        elif spec.get("leaseDurationSeconds", 1) <= 0:
            errors.append("spec.leaseDurationSeconds: Invalid value: must be greater than 0")
        if errors:
            raise Refused(422, "Invalid", f'{resource} "{name}" is invalid: {"; ".join(errors)}')

    def _store(self, resource: str, item: Object, kind: str) -> Object:
        metadata = item["metadata"]
        self._objects[resource, metadata["namespace"], metadata["name"]] = item
        self._record(resource, item, kind)
        return copy.deepcopy(item)

    def _record(self, resource: str, item: Object, kind: str) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, resource, kind, copy.deepcopy(item)))

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        resource, part = request.path_params["resource"], request.path_params.get("part", "")
        self.requests.append(f"{request.method} {resource}{part and '/' + part}")
        try:
            self._authorize(request, resource, part)
            answer = await self._answer(request, resource, part)
        except Refused as refused:
            return JSONResponse(refused.status, refused.code)
        key = f"{request.method} {resource}"
        if key in self.drops:
            self.drops.remove(key)
            return Response(status_code=504)
        return answer

    def _authorize(self, request: Request, resource: str, part: str) -> None:
        if self.down:
            raise Refused(503, "ServiceUnavailable", "apiserver is shutting down")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.rights:
            raise Refused(401, "Unauthorized", "Unauthorized")
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
        verb = verbs.get(request.method, "delete")
        if verb == "get" and "name" not in request.path_params:
            verb = "watch" if request.query_params.get("watch") == "true" else "list"
        where = f"{resource}/{part}" if part else resource
        if f"{where} {verb}" not in self.rights[token]:
            group = KINDS[resource][0].partition("/")[0]
            raise Refused(
                403,
                "Forbidden",
                f'{where}.{group} is forbidden: User "system:serviceaccount:plant:{token}" cannot '
                f'{verb} resource "{where}" in API group "{group}" in the namespace '
                f'"{request.path_params["namespace"]}"',
            )

    async def _answer(self, request: Request, resource: str, part: str) -> Response:
        params, namespace = request.query_params, request.path_params["namespace"]
        name = request.path_params.get("name")
        manager = params.get("fieldManager") or request.headers.get("user-agent", "unknown")
        if request.method == "GET":
            if name is not None:
                return JSONResponse(self.get(resource, namespace, name))
            chosen = params.get("fieldSelector", "").removeprefix("metadata.name=")
            if params.get("watch") == "true":
                return StreamingResponse(self._watch(request, resource, chosen))
            version, kind = KINDS[resource]
            with self._lock:
                items = [
                    item for key, item in self._objects.items() if key[:2] == (resource, namespace)
                ]
                listed = {"resourceVersion": str(self._version)}
            return JSONResponse(
                {"apiVersion": version, "kind": f"{kind}List", "metadata": listed, "items": items}
            )
        given = json.loads(await request.body())
        self._check_body(request, resource, given, name)
        if request.method == "POST":
            return JSONResponse(self.create(resource, namespace, given, manager), 201)
        assert name is not None
        if request.method == "PUT":
            done = self.update(resource, namespace, name, given, manager, part or "spec")
            return JSONResponse(done)
        if request.headers["content-type"] != "application/apply-patch+yaml":
            raise Refused(415, "UnsupportedMediaType", "this server only knows server-side apply")
        if not params.get("fieldManager"):
            raise Refused(400, "BadRequest", "fieldManager is required for apply patch")
        force = params.get("force") == "true"
        return JSONResponse(self.apply(resource, namespace, name, given, manager, force=force))

    def _check_body(self, request: Request, resource: str, given: Object, name: str | None) -> None:
        version, kind = KINDS[resource]
        if (given.get("apiVersion"), given.get("kind")) != (version, kind):
            raise Refused(400, "BadRequest", f"expected {version} {kind} in the body")
        if name is not None and given["metadata"].get("name") != name:
            raise Refused(400, "BadRequest", "the name of the object does not match the URL")
        unknown = set(given.get("spec", {})) - SPEC_FIELDS[resource]
        if unknown and request.query_params.get("fieldValidation") == "Strict":
            raise Refused(
                400, "BadRequest", f'strict decoding error: unknown field "spec.{min(unknown)}"'
            )

    async def _watch(self, request: Request, resource: str, name: str) -> AsyncIterator[str]:
        after = int(request.query_params.get("resourceVersion") or 0)
        bookmarks = request.query_params.get("allowWatchBookmarks") == "true"
        ends = asyncio.get_running_loop().time() + float(
            request.query_params.get("timeoutSeconds", 300)
        )
        sent = after
        while asyncio.get_running_loop().time() < ends and not self.down:
            found = self.events(resource, after)
            if found is None:
                gone = Refused(410, "Expired", f"too old resource version: {after}")
                yield _line("ERROR", gone.status)
                return
            changes, after = found
            for kind, item in changes:
                if name in ("", item["metadata"]["name"]):
                    sent = int(item["metadata"]["resourceVersion"])
                    yield _line(kind, item)
            if bookmarks and after > sent:
                sent = after
                version, kind = KINDS[resource]
                metadata = {"resourceVersion": str(after)}
                yield _line("BOOKMARK", {"apiVersion": version, "kind": kind, "metadata": metadata})
            await asyncio.sleep(WATCH_PAUSE_S)


Path_ = tuple[str, ...]


def _line(kind: str, item: Object) -> str:
    return json.dumps({"type": kind, "object": item}) + "\n"


def _leaves(item: Mapping[str, Any], where: Path_ = ()) -> dict[Path_, Any]:
    """Return the fields of an object that a manager can own, with their values."""
    found: dict[Path_, Any] = {}
    for key, value in item.items():
        if not where and key in ("apiVersion", "kind", "metadata"):
            continue
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, (*where, key))
        else:
            found[*where, key] = value
    return found


def _owned(entry: Object) -> set[Path_]:
    def walk(fields: Object, where: Path_) -> Iterator[Path_]:
        for key, below in fields.items():
            path = (*where, key.removeprefix("f:"))
            if below:
                yield from walk(below, path)
            else:
                yield path

    return set(walk(entry["fieldsV1"], ()))


def _own(item: Object, manager: str, operation: str, paths: Any) -> None:
    """Add fields to those of a manager."""
    entries = item["metadata"].setdefault("managedFields", [])
    mine = next(
        (each for each in entries if (each["manager"], each["operation"]) == (manager, operation)),
        None,
    )
    if mine is None:
        mine = {"manager": manager, "operation": operation, "fieldsType": "FieldsV1"}
        mine |= {"apiVersion": item["apiVersion"], "fieldsV1": {}}
        entries.append(mine)
    for path in paths:
        fields = mine["fieldsV1"]
        for key in path:
            fields = fields.setdefault(f"f:{key}", {})


def _disown(item: Object, paths: Any, but: str) -> None:
    """Take fields from the managers other than one."""
    metadata = item["metadata"]
    for entry in metadata.get("managedFields", []):
        if entry["manager"] != but:
            left = _owned(entry) - set(paths)
            entry["fieldsV1"] = {}
            for path in left:
                fields = entry["fieldsV1"]
                for key in path:
                    fields = fields.setdefault(f"f:{key}", {})
    metadata["managedFields"] = [
        each for each in metadata.get("managedFields", []) if each["fieldsV1"]
    ]


def _set(item: Object, path: Path_, value: Any) -> None:
    for key in path[:-1]:
        item = item.setdefault(key, {})
    item[path[-1]] = copy.deepcopy(value)


@contextlib.contextmanager
def api_server(certificate: Path | None = None) -> Iterator[ApiServer]:
    """Serve an empty API server on a free port; with a certificate and key (PEM), over HTTPS."""
    server = ApiServer()
    routes = [
        Route(f"/apis/{version}/namespaces/{{namespace}}/{{resource}}{rest}", server.answer,
              methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        for version in ("ray.io/v1", "coordination.k8s.io/v1")
        for rest in ("", "/{name}", "/{name}/{part}")
    ]  # fmt: skip
    port = free_port()
    config = uvicorn.Config(
        Starlette(routes=routes),
        port=port,
        log_level="error",
        ssl_certfile=certificate,
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_until(lambda: running.started, "the API server", pause_s=0.01)
        server.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"
        yield server
    finally:
        server.down = True
        running.should_exit = True
        thread.join()


def ray_service(text: str, name: str = "diagnostics") -> Object:
    """Return a RayService as the manifests have it."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name},
        "spec": {"serveConfigV2": text, "rayClusterConfig": {"rayVersion": "2.60.0"}},
    }


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
