"""Who may call a service: the one grant that makes it public, and nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

from google.iam.v1 import policy_pb2

from localcloud.run.errors import EtagConflict, InvalidArgument, Unsupported
from localcloud.run.store import Store

INVOKER = "roles/run.invoker"
EVERYBODY = "allUsers"


class Policies:
    """Reads and writes the services' IAM policies."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, service_id: str) -> Any:
        """Return the policy; without one, an empty policy with an etag."""
        stored = self._store.policy(service_id)
        policy = policy_pb2.Policy.FromString(stored) if stored else policy_pb2.Policy(version=1)
        policy.etag = hashlib.sha256(stored or b"").digest()[:8]
        return policy

    def put(self, service_id: str, resource: str, policy: Any) -> Any:
        """Replace the policy and return it; only roles/run.invoker for allUsers is known here."""
        check(policy)
        with self._store.transaction():
            current = self.get(service_id)
            if policy.etag and policy.etag != current.etag:
                raise EtagConflict(resource, policy.etag.hex(), current.etag.hex())
            kept = policy_pb2.Policy(version=1, bindings=policy.bindings)
            self._store.put_policy(service_id, kept.SerializeToString(deterministic=True))
        return self.get(service_id)

    def is_public(self, service_id: str, service: Any) -> bool:
        """Tell whether callers without a token are let in."""
        return service.invoker_iam_disabled or any(
            binding.role == INVOKER and EVERYBODY in binding.members
            for binding in self.get(service_id).bindings
        )


def check(policy: Any) -> None:
    """Raise for what a policy may say on Google's service and this one cannot keep."""
    if policy.audit_configs:
        raise Unsupported("policy.audit_configs")
    for binding in policy.bindings:
        if not binding.role.startswith("roles/"):
            raise InvalidArgument(f"{binding.role!r} is not a role")
        if binding.role != INVOKER:
            raise Unsupported(f"policy binding of {binding.role!r}")
        if binding.HasField("condition"):
            raise Unsupported("policy binding condition")
        for member in binding.members:
            if member != EVERYBODY:
                raise Unsupported(f"policy member {member!r}", f"only {EVERYBODY} can be granted")
