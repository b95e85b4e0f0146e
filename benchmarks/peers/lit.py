"""LitServe with batching: requests that wait together become one TensorFlow call.

LIT_BATCH (requests), LIT_WAIT_S, LIT_SERVERS (HTTP processes) and LIT_FAST_QUEUE (1: its ZeroMQ
transport) are its settings. One path takes both kinds of requests: two would be two models.
"""

import os
from itertools import islice
from typing import Any

import litserve

from benchmarks.peers.towers import load

# Bounds what one call's scores weigh, whatever was batched together.
MOST_CUSTOMERS = 1_000


class Recommendations(litserve.LitAPI):
    """A request is `(customer ids, k, whether they came alone)`."""

    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe's signature)
        """Load the model (called once by the worker)."""
        self.answer = load()

    # LitServe reads the annotation to find out how to parse a request: without one, as JSON.
    def decode_request(self, request) -> tuple[list[str], int, bool]:  # type: ignore[no-untyped-def]
        """Return what is asked for."""
        alone = "customer_id" in request
        ids = [request["customer_id"]] if alone else request["customer_ids"]
        return ids, request.get("top_k", 10), alone

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave the requests a list."""
        return inputs

    def predict(self, inputs: list[tuple[list[str], int, bool]]) -> list[list[dict[str, Any]]]:
        """Answer all of them with as few calls as fit."""
        k = max(wanted for _, wanted, _ in inputs)
        ids = [customer_id for customers, _, _ in inputs for customer_id in customers]
        results: list[dict[str, Any]] = []
        for begin in range(0, len(ids), MOST_CUSTOMERS):
            results += self.answer(ids[begin : begin + MOST_CUSTOMERS], k)
        left = iter(results)
        return [
            [
                {**result, "recommendations": result["recommendations"][:wanted]}
                for result in islice(left, len(customers))
            ]
            for customers, wanted, _ in inputs
        ]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Give each request its own."""
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the body; a batch of one looks like a single one, which nobody here sends."""
        return output[0] if len(output) == 1 else {"results": output}


def main() -> None:
    """Serve until SIGTERM."""
    api = Recommendations(
        max_batch_size=int(os.environ["LIT_BATCH"]),
        batch_timeout=float(os.environ["LIT_WAIT_S"]),
        api_path="/recommend",
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=1,
        timeout=600,
        fast_queue=os.environ["LIT_FAST_QUEUE"] == "1",
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=int(os.environ["LIT_SERVERS"]),
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
