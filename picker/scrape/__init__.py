"""Metrics scraper: reads the engines' load from their `/metrics` pages into an injected sink (floor F3).

`picker.app` joins it with whatever keeps the load.
"""

from picker.scrape.engines import ENGINE_LABELS, PRESETS, EngineTable, configured_engines
from picker.scrape.failures import REASONS
from picker.scrape.scraper import LoadSink, Scraper
from picker.scrape.specs import MetricSpec, parse_spec

__all__ = [
    "ENGINE_LABELS",
    "PRESETS",
    "REASONS",
    "EngineTable",
    "LoadSink",
    "MetricSpec",
    "Scraper",
    "configured_engines",
    "parse_spec",
]
