"""The ingress as a deployment: Serve's wrapper speaks ASGI around it.

Invariant: its process does what `Ingress` does and nothing else; it imports no torch.
"""

from ray import serve

from app.serving.ingress import Ingress


@serve.ingress()
class IngressReplica(Ingress):
    """One ingress replica."""
