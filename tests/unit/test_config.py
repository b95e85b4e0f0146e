"""Settings from the environment."""

from __future__ import annotations

import pytest

from shared.config import Settings


def test_project_alone_is_enough() -> None:
    found = Settings.from_environment({"TURNOUT_PROJECT": "shop"})
    assert found.parent == "projects/shop/locations/europe-central2"
    assert found.serving_bucket == "shop-serving"
    assert found.training_buckets == {"shop-training"}
    assert found.functions_url == "https://europe-central2-shop.cloudfunctions.net"
    assert found.grpc_emulator == ""


def test_every_setting_can_be_given() -> None:
    found = Settings.from_environment(
        {
            "TURNOUT_PROJECT": "shop",
            "GOOGLE_CLOUD_PROJECT": "another",
            "TURNOUT_REGION": "us-east1",
            "TURNOUT_SERVING_BUCKET": "models",
            "TURNOUT_TRAINING_BUCKETS": "a, b,",
            "TURNOUT_FUNCTIONS_URL": "http://127.0.0.1:8000/",
            "TURNOUT_GRPC_EMULATOR_HOST": "127.0.0.1:9000",
        }
    )
    assert found == Settings(
        project="shop",
        region="us-east1",
        serving_bucket="models",
        training_buckets=frozenset({"a", "b"}),
        functions_url="http://127.0.0.1:8000",
        grpc_emulator="127.0.0.1:9000",
    )


def test_project_of_the_platform_is_taken_where_no_other_is_named() -> None:
    assert Settings.from_environment({"GOOGLE_CLOUD_PROJECT": "shop"}).project == "shop"


def test_missing_project_is_named() -> None:
    with pytest.raises(ValueError, match="TURNOUT_PROJECT"):
        Settings.from_environment({})
