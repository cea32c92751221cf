"""Ids of what the gateway makes; see `producer.ids`."""

from producer.ids import is_owner, new_id, owner_tag

__all__ = ["is_owner", "new_id", "owner_tag"]
