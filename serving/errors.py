"""Errors of the serving container, one tree.

ServingError
├── UnsupportedMediaType, InvalidJson, InvalidField, MissingField, UnknownField   the request's form
├── TooManyCustomers, NoCustomers, TopKOutOfRange, AnswerTooLarge                 its limits
├── MissingApiKey, InvalidApiKey, KeysUnavailable, TooManyRequests                its key
├── ModelNotReady, ModelBusy, ModelError                                          the model's answer
└── LoadError                        a revision that cannot serve; the process ends with code 1
    ├── InvalidConfiguration         the environment variables
    ├── ArtifactUnavailable, ArtifactMismatch                                     the download
    └── ModelContractError, ModelWarmUpError, RecallTooLow                        the model itself
"""

from __future__ import annotations

from typing import ClassVar


class ServingError(Exception):
    """Base: `code` and `http_status` are the class's, the message says what to do."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retry_after_s: ClassVar[int | None] = None
    www_authenticate: ClassVar[str | None] = None


class UnsupportedMediaType(ServingError):
    """The body is not declared to be JSON."""

    code, http_status = "unsupported_media_type", 415

    def __init__(self, content_type: str) -> None:
        super().__init__(
            f"content type is {content_type!r}; send Content-Type: application/json"
            if content_type
            else "content type is missing; send Content-Type: application/json"
        )


class InvalidJson(ServingError):
    """The body is not JSON."""

    code, http_status = "invalid_json", 400


class InvalidField(ServingError):
    """A field has the wrong type or value; the message names it."""

    code, http_status = "invalid_field", 400


class MissingField(ServingError):
    """A required field is absent; the message names it."""

    code, http_status = "missing_field", 400


class UnknownField(ServingError):
    """A field that no request has; the message names it."""

    code, http_status = "unknown_field", 400


class TooManyCustomers(ServingError):
    """A batch is longer than the limit."""

    code, http_status = "too_many_customers", 400

    def __init__(self, limit: int, got: int) -> None:
        super().__init__(f"customer_ids has {got} entries; at most {limit} a request, so split it")


class NoCustomers(ServingError):
    """A batch is empty: more likely a caller's mistake than a question."""

    code, http_status = "no_customers", 400

    def __init__(self) -> None:
        super().__init__("customer_ids is empty; send at least one customer id")


class TopKOutOfRange(ServingError):
    """More products were asked for than the model has, or fewer than one."""

    code, http_status = "top_k_out_of_range", 400

    def __init__(self, top_k: int, products: int) -> None:
        super().__init__(f"top_k is {top_k}; this model takes 1 to {products}, its products")


class AnswerTooLarge(ServingError):
    """The answer would not fit into what Cloud Run can return."""

    code, http_status = "answer_too_large", 400

    def __init__(self, asked: int, limit: int) -> None:
        super().__init__(
            f"customers times top_k is {asked}; at most {limit} recommendations a request, "
            "so send smaller batches or a smaller top_k"
        )


class MissingApiKey(ServingError):
    """There is no key, or not in the form in which keys are sent."""

    code, http_status = "missing_api_key", 401
    www_authenticate = "Bearer"

    def __init__(self) -> None:
        super().__init__("send the header Authorization: Bearer YOUR_API_KEY")


class InvalidApiKey(ServingError):
    """The key opens nothing here; the answer does not tell which of the reasons it is."""

    code, http_status = "invalid_api_key", 401
    www_authenticate = 'Bearer error="invalid_token"'

    def __init__(self) -> None:
        super().__init__(
            "the API key is unknown, revoked, expired or another model's; create a new one"
        )


class KeysUnavailable(ServingError):
    """A key could not be looked up; it may be right, so this is not a 401."""

    code, http_status = "keys_unavailable", 503
    retry_after_s = 2

    def __init__(self) -> None:
        super().__init__("API keys cannot be looked up at the moment; try again")


class TooManyRequests(ServingError):
    """The key has sent what it may in this minute, to whichever instance."""

    code, http_status = "too_many_requests", 429

    def __init__(self, per_minute: int, retry_after_s: int) -> None:
        super().__init__(
            f"this API key may send {per_minute} requests a minute; a batch counts as one"
        )
        self.retry_after_s = retry_after_s


class KeyStoreAway(Exception):
    """The store of keys did not answer in time or refused to; the message says why."""


class ModelNotReady(ServingError):
    """No model answers yet: the container starts, is empty, or failed to load its model."""

    code, http_status = "model_not_ready", 503
    retry_after_s = 5


class ModelBusy(ServingError):
    """More is waiting for the model than it can answer soon; nothing was begun."""

    code, http_status = "model_busy", 503
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("this instance has more requests than it can answer soon; try again")


class ModelError(ServingError):
    """The model failed on this request or answered something that is not a recommendation."""

    code, http_status = "model_error", 500


class LoadError(ServingError):
    """The model cannot be served; `code` says at which step."""

    code, http_status = "load_failed", 503


class InvalidConfiguration(LoadError):
    """An environment variable is missing or cannot be right."""

    code = "invalid_configuration"


class ArtifactUnavailable(LoadError):
    """Storage did not give a file; starting again may succeed."""

    code = "artifact_unavailable"


class ArtifactMismatch(LoadError):
    """What is stored is not what the manifest or the revision says; deploy again."""

    code = "artifact_mismatch"


class ModelContractError(LoadError):
    """The artifact is not a model that this container can ask for recommendations."""

    code = "model_contract"


class ModelWarmUpError(LoadError):
    """The model loads but its first answers are wrong."""

    code = "model_warm_up"


class RecallTooLow(LoadError):
    """An approximate index does not find enough of the best products."""

    code = "recall_too_low"

    def __init__(self, recall: float, minimum: float) -> None:
        super().__init__(
            f"the approximate index finds {recall:.3f} of the best products, at least {minimum:g} "
            "is asked for; set retrieval.kind to exact, or lower retrieval.minimum_recall"
        )
