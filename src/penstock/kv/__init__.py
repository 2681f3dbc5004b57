"""A small store of keys and values that every executor follows: shard maps, settings that many must know."""
