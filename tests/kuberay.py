"""A stand-in for KubeRay's operator: gives a RayService's text to Serve and writes its status.

It follows the reconciliation of KubeRay 1.7 as far as releases can see it: the text is sent when it
differs from what this operator sent last, or when Serve has no application; while the head is not
ready no application is reported; when Serve does not answer the status stays as it is; while a
pending cluster exists it alone is given the text. It creates no pods.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import yaml

TOKEN = "kuberay-operator"
PAUSE_S = 0.1
"""KubeRay's is two seconds."""


class Operator:
    """Reconciles one RayService; `head_is_ready` and `pending` are what its pods would say.

    Args:
        api_url: The API server.
        place: `namespace/name` of the RayService.
        dashboard_url: Of the head.
        serve_token: Ray's token, or None.
    """

    def __init__(
        self, api_url: str, place: str, dashboard_url: str, serve_token: str | None = None
    ) -> None:
        namespace, _, name = place.partition("/")
        self._path = f"{api_url}/apis/ray.io/v1/namespaces/{namespace}/rayservices/{name}"
        self._serve = f"{dashboard_url}/api/serve/applications/"
        self._serve_headers = {"authorization": f"Bearer {serve_token}"} if serve_token else {}
        self.head_is_ready = True
        self.stopped = False
        self.pending = ""
        self.sent: list[str] = []
        self.failures: list[str] = []
        self._cached = ""

    def forget(self) -> None:
        """Forget what was sent, as an operator that starts, so that the text is sent again."""
        self._cached = ""

    def reconcile(self, client: httpx.Client) -> None:
        """Compare the resource with Serve once."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        service = client.get(self._path, headers=headers).raise_for_status().json()
        statuses: dict[str, Any] = {}
        if self.head_is_ready and not self.pending:
            statuses = self._statuses(client)
            text = service["spec"]["serveConfigV2"]
            if self._cached != text or not statuses:
                self._send(client, text)
        status = {
            "observedGeneration": service["metadata"]["generation"],
            "activeServiceStatus": {"rayClusterName": "cluster-1", "applicationStatuses": statuses},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if statuses else "False",
                    "message": "Number of serve endpoints is greater than 0"
                    if statuses
                    else "none",
                    "observedGeneration": service["metadata"]["generation"],
                }
            ],
        }
        if self.pending:
            status["pendingServiceStatus"] = {"rayClusterName": self.pending}
        if status != service.get("status"):
            service["status"] = status
            # 409 when the resource changed meanwhile: the next reconciliation finds that
            client.put(f"{self._path}/status", headers=headers, json=service)

    def _statuses(self, client: httpx.Client) -> dict[str, Any]:
        answer = client.get(self._serve, headers=self._serve_headers, timeout=5).raise_for_status()
        return {
            name: {
                "status": item["status"],
                "message": item.get("message", ""),
                "serveDeploymentStatuses": {
                    deployment: {"status": each["status"], "message": each["message"]}
                    for deployment, each in item["deployments"].items()
                },
            }
            for name, item in answer.json()["applications"].items()
        }

    def _send(self, client: httpx.Client, text: str) -> None:
        config = yaml.safe_load(text)
        client.put(
            self._serve, headers=self._serve_headers, json=config, timeout=60
        ).raise_for_status()
        self._cached = text
        self.sent.append(text)

    def run(self, ended: threading.Event) -> None:
        """Reconcile until the end."""
        with httpx.Client(trust_env=False) as client:
            while not ended.wait(PAUSE_S):
                try:
                    if not self.stopped:
                        self.reconcile(client)
                except httpx.HTTPError as error:  # KubeRay logs it, and tries again
                    self.failures.append(str(error))


@contextlib.contextmanager
def operating(operator: Operator) -> Iterator[Operator]:
    """Run an operator in a thread."""
    ended = threading.Event()
    thread = threading.Thread(target=operator.run, args=(ended,))
    thread.start()
    try:
        yield operator
    finally:
        ended.set()
        thread.join()
