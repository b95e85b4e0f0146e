"""The requests and answers of the HTTP API; the OpenAPI document is generated from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CUSTOMERS = 1_000
# A Cloud Run answer may have 32 MiB; with product ids of ordinary length this many fit.
MAX_RECOMMENDATIONS = 500_000

CustomerId = Annotated[str, Field(min_length=1, examples=["C001234"])]
TopK = Annotated[
    int,
    Field(
        description="How many products to recommend: 1 to the model's number of products.",
        # The upper bound is the loaded model's, so the range is checked where that is known.
        json_schema_extra={"minimum": 1},
    ),
]


class _Message(BaseModel):
    """A message: its types are not coerced, and a field it does not have is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class RecommendRequest(_Message):
    """Ask for one customer's recommendations."""

    customer_id: CustomerId
    top_k: TopK = 10


class RecommendBatchRequest(_Message):
    """Ask for up to 1,000 customers' recommendations; a customer may appear more than once."""

    customer_ids: Annotated[list[CustomerId], Field(min_length=1, max_length=MAX_CUSTOMERS)]
    top_k: TopK = 10


class Recommendation(_Message):
    """One product, with the model's score for this customer; higher is better."""

    product_id: Annotated[str, Field(examples=["P5678"])]
    score: Annotated[float, Field(examples=[0.92])]


class CustomerRecommendations(_Message):
    """One customer's recommendations, best first."""

    customer_id: str
    recommendations: list[Recommendation]
    known: Annotated[
        Literal[False],
        Field(
            default=False,
            # Its absence says nothing, so the document must not promise a default.
            json_schema_extra=lambda schema: schema.pop("default"),
            description="Present only for a customer that the model was not trained on.",
        ),
    ]


class RecommendResponse(CustomerRecommendations):
    """The answer to /recommend."""

    model_version: Annotated[str, Field(examples=["v4"])]


class RecommendBatchResponse(_Message):
    """The answer to /recommend-batch: one result a customer, in the request's order."""

    results: list[CustomerRecommendations]
    model_version: Annotated[str, Field(examples=["v4"])]


class Paths(_Message):
    """Which ways to an answer are ready."""

    prepared: Annotated[
        Literal["ready", "none"],
        Field(description="Answers computed before the deployment, of customers it knew then."),
    ]
    model: Annotated[
        Literal["ready", "loading"], Field(description="The model itself: every other question.")
    ]


class Healthy(_Message):
    """Something answers: everything (`healthy`), or prepared answers alone (`loading`)."""

    status: Literal["healthy", "loading"]
    paths: Paths
    model_id: str
    model_version: Annotated[str, Field(examples=["v4"])]
    training_run: Annotated[int, Field(examples=[47])]
    artifact_digest: str
    products: Annotated[int, Field(description="How many products the model can recommend.")]
    customers: Annotated[
        int | None,
        Field(description="How many customers the model knows; null when it cannot tell yet."),
    ]
    prepared_customers: Annotated[int, Field(description="How many have prepared answers.")]
    prepared_top_k: Annotated[int, Field(description="Up to this top_k answers are prepared.")]
    retrieval: Annotated[
        Literal["exact", "approximate", "model"] | None,
        Field(
            description="How the model finds products: by scoring all, by an approximate index, or "
            "by its own index; null while it loads."
        ),
    ]


class NotHealthy(_Message):
    """No model answers yet, and why."""

    status: Literal["starting", "unhealthy"]
    reason: str
    model_id: str | None
    model_version: str


class Problem(_Message):
    """An error (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: Annotated[str, Field(examples=["too_many_customers"])]
    detail: Annotated[str, Field(description="What happened and what to do.")]
