"""The RayService on the API server: what is read of it, and how its text is applied."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from app.release.clients.serve_api import ApplicationState, DeploymentState
from app.release.kubernetes.api import KubernetesApi, read_object, refusal_of

FIELD_MANAGER = "hydraulic-release"
_APPLY = "application/apply-patch+yaml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class _DeploymentStatus(_Part):
    status: str = ""
    message: str = ""


class _ApplicationStatus(_Part):
    status: str = ""
    message: str = ""
    deployments: Mapping[str, _DeploymentStatus] = Field({}, alias="serveDeploymentStatuses")

    @property
    def state(self) -> ApplicationState:
        """As Serve reports it, without replicas."""
        deployments = {
            name: DeploymentState(message=item.message) for name, item in self.deployments.items()
        }
        return ApplicationState(status=self.status, message=self.message, deployments=deployments)


class _ServiceStatus(_Part):
    applications: Mapping[str, _ApplicationStatus] = Field({}, alias="applicationStatuses")
    cluster: str = Field("", alias="rayClusterName")

    def __str__(self) -> str:
        states = [f"{name} {item.status}" for name, item in sorted(self.applications.items())]
        return f"cluster '{self.cluster}': {', '.join(states) or 'no application reported'}"


class _Condition(_Part):
    type: str
    status: str = ""
    message: str = ""


class _Status(_Part):
    observed_generation: int = Field(0, alias="observedGeneration")
    active: _ServiceStatus = Field(_ServiceStatus(), alias="activeServiceStatus")
    pending: _ServiceStatus = Field(_ServiceStatus(), alias="pendingServiceStatus")
    conditions: tuple[_Condition, ...] = ()


class _Managed(_Part):
    manager: str = ""
    fields: Mapping[str, Any] = Field({}, alias="fieldsV1")


class _Metadata(_Part):
    generation: int = 0
    resource_version: str = Field("", alias="resourceVersion")
    managed: tuple[_Managed, ...] = Field((), alias="managedFields")


class _Spec(_Part):
    text: str = Field("", alias="serveConfigV2")


class RayService(_Part):
    """What is read of the resource."""

    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def is_applied(self) -> bool:
        """Whether KubeRay has given the present text to the cluster that serves.

        It reports no application while the head is not ready, and applies the text to the pending
        cluster alone while there is one. Since KubeRay 1.3 its conditions name the generation, so
        that it writes its status for each one; it does not when Serve refuses the text.
        """
        status = self.status
        is_observed = status.observed_generation >= self.metadata.generation
        return is_observed and bool(status.active.applications) and not status.pending.cluster

    @property
    def managers(self) -> tuple[str, ...]:
        """The field managers of the text."""
        return tuple(
            item.manager
            for item in self.metadata.managed
            if "f:serveConfigV2" in item.fields.get("f:spec", {})
        )

    def lines(self) -> list[str]:
        """Describe how far KubeRay is."""
        status = self.status
        observed = f"generation {status.observed_generation} of {self.metadata.generation}"
        lines = [f"KubeRay observed {observed}; active {status.active}"]
        if status.pending.cluster:
            lines.append(f"an upgrade of the Ray cluster is in progress; pending {status.pending}")
        lines += [
            f"not ready: {item.message}"
            for item in status.conditions
            if (item.type, item.status) == ("Ready", "False")
        ]
        return lines


class RayServiceResource:
    """One RayService on an API server; `place` is its `namespace/name`."""

    def __init__(self, api: KubernetesApi, place: str) -> None:
        self.namespace, _, self.name = place.partition("/")
        self.api = api
        self._collection = f"/apis/ray.io/v1/namespaces/{self.namespace}/rayservices"

    def read(self) -> RayService:
        """Read it."""
        answer = self.api.send("GET", f"{self._collection}/{self.name}")
        return read_object(RayService, answer.body)

    def changes(self) -> AsyncGenerator[RayService, None]:
        """Yield it now and after each change, without an end."""
        return self.api.changes(self._collection, self.name, RayService)

    def apply(self, text: str, version: str, *, force: bool) -> tuple[str, ...] | None:
        """Apply a text (server-side apply) if the resource still has a version.

        Args:
            text: The new `serveConfigV2`.
            version: `metadata.resourceVersion` of the resource from which the text was made.
            force: Take the field from the managers that own it.

        Returns:
            None when it was applied, else the managers that own the field; none of them when the
            resource has another version.
        """
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "resourceVersion": version,
            },
            "spec": {"serveConfigV2": text},
        }
        params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        answer = self.api.send(
            "PATCH",
            f"{self._collection}/{self.name}",
            accepts={httpx.codes.CONFLICT},
            params=params | ({"force": "true"} if force else {}),
            body=body,
            media_type=_APPLY,
        )
        if answer.status != httpx.codes.CONFLICT:
            return None
        causes = refusal_of(answer.body).details.causes
        return tuple(item.message for item in causes if item.reason == "FieldManagerConflict")
