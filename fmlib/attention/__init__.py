"""Attention maps: who looks where, in which sensor, layer and head; see `watch`."""

from .flow import relevance, rollout
from .measures import followed, measure, offset_map
from .places import CLS, Layer, Seen, between, look, look_across, look_back, pick_queries
from .sample import search_by_content, watch_sample
from .watch import watch

__all__ = [
    "CLS",
    "Layer",
    "Seen",
    "between",
    "followed",
    "look",
    "look_across",
    "look_back",
    "measure",
    "offset_map",
    "pick_queries",
    "relevance",
    "rollout",
    "search_by_content",
    "watch",
    "watch_sample",
]
