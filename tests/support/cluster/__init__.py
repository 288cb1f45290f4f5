"""The smallest honest fake of a Kubernetes API server: real HTTP on loopback, driven by real clients and kubectl.

True as on a real one: discovery, one resourceVersion that only grows, identity and generations set by the server,
conflicts, selectors, pages of a consistent snapshot, watches with bookmarks and a history that is compacted,
server-side apply, schemas of CRDs, `metav1.Status` for every refusal, TLS, bearer tokens, and RBAC where it is wanted.
There are no controllers: no garbage collection by owner, no scheduler, no kubelet (a deleted pod is gone at once).
Bodies are JSON or YAML: what speaks only protobuf (`kubectl create`, `kubectl auth`) is answered 415.
"""

from tests.support.cluster.cluster import TOKEN, Cluster

__all__ = ["TOKEN", "Cluster"]
