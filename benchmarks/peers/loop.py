"""A loop over customers and products under FastAPI and uvicorn, as it is often written first.

One customer at a time through both towers, in coroutines that block; ids and scores are read
from the tensors one element at a time; each answer is validated against its schema.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import tensorflow as tf
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

MAX_CUSTOMERS = 1_000
model: Any = None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request."""
    global model
    model = tf.saved_model.load(str(Path(os.environ["MODEL_FOLDER"]) / "saved_model"))
    yield


app = FastAPI(lifespan=lifespan)


class One(BaseModel):
    """Ask for one customer."""

    customer_id: str
    top_k: int = 10


class Many(BaseModel):
    """Ask for several customers."""

    customer_ids: list[str]
    top_k: int = 10


class Recommendation(BaseModel):
    """A product and its score."""

    product_id: str
    score: float


class Answer(BaseModel):
    """One customer's recommendations."""

    customer_id: str
    recommendations: list[Recommendation]


@app.post("/recommend", response_model=Answer)
async def recommend(request: One, authorization: Annotated[str, Header()]) -> Answer:
    """Recommend to one customer."""
    _check_key(authorization)
    found = _recommendations(request.customer_id, request.top_k)
    return Answer.model_validate({"customer_id": request.customer_id, "recommendations": found})


@app.post("/recommend-batch")
async def recommend_batch(request: Many, authorization: Annotated[str, Header()]) -> dict[str, Any]:
    """Recommend to several customers, one after the other."""
    _check_key(authorization)
    if len(request.customer_ids) > MAX_CUSTOMERS:
        raise HTTPException(400, f"at most {MAX_CUSTOMERS} customers a batch")
    results = []
    for customer_id in request.customer_ids:
        found = _recommendations(customer_id, request.top_k)
        results.append({"customer_id": customer_id, "recommendations": found})
    return {"results": results}


def _recommendations(customer_id: str, top_k: int) -> list[dict[str, Any]]:
    embedding = model.query_model({"user_id": tf.constant([customer_id])})
    scores, product_ids = model.brute_force_index(embedding, k=top_k)
    return [
        {"product_id": product_id.numpy().decode(), "score": float(score)}
        for product_id, score in zip(product_ids[0], scores[0], strict=True)
    ]


def _check_key(authorization: str) -> None:
    if not authorization.startswith("Bearer "):
        raise HTTPException(401, "an API key is needed")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
