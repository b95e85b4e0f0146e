"""The tables of Pub/Sub: resources as Google's own messages, deliveries as columns.

All times are microseconds since 1970, in columns named `_us`.
"""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY,
    config BLOB NOT NULL                -- google.pubsub.v1.Topic
);
CREATE TABLE IF NOT EXISTS schemas (
    name TEXT NOT NULL,
    revision_id TEXT NOT NULL,
    config BLOB NOT NULL,               -- google.pubsub.v1.Schema
    file_descriptor BLOB NOT NULL,      -- google.protobuf.FileDescriptorProto
    PRIMARY KEY (name, revision_id)
);
CREATE TABLE IF NOT EXISTS subscriptions (
    name TEXT PRIMARY KEY,
    topic TEXT NOT NULL,
    config BLOB NOT NULL,               -- google.pubsub.v1.Subscription
    active_us INTEGER NOT NULL          -- when somebody last consumed or changed it
);
CREATE INDEX IF NOT EXISTS subscriptions_by_topic ON subscriptions (topic);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    body BLOB NOT NULL,                 -- google.pubsub.v1.PubsubMessage
    published_us INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_topic ON messages (topic, published_us);
CREATE TABLE IF NOT EXISTS deliveries (
    subscription TEXT NOT NULL,
    message_id INTEGER NOT NULL,
    ordering_key TEXT NOT NULL,         -- empty where the subscription does not order
    size INTEGER NOT NULL,              -- bytes
    published_us INTEGER NOT NULL,
    available_us INTEGER NOT NULL,      -- when it may be handed out (again)
    attempts INTEGER NOT NULL,          -- deliveries that count towards the dead-letter limit
    lease INTEGER NOT NULL,             -- number of the newest lease; only its holder may extend
    leased_until_us INTEGER,            -- NULL: nobody holds it
    holder TEXT,                        -- the stream that holds it, for its flow control
    acked_us INTEGER,                   -- kept only where the subscription retains acknowledged
    PRIMARY KEY (subscription, message_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_due
    ON deliveries (subscription, available_us, message_id) WHERE acked_us IS NULL;
CREATE INDEX IF NOT EXISTS deliveries_in_order
    ON deliveries (subscription, ordering_key, message_id)
    WHERE acked_us IS NULL AND ordering_key != '';
CREATE INDEX IF NOT EXISTS deliveries_of_message ON deliveries (message_id);
CREATE INDEX IF NOT EXISTS deliveries_of_holder ON deliveries (holder) WHERE holder IS NOT NULL;
"""
