"""Configuration into a compiled pipeline, and the plugin API. No I/O."""
