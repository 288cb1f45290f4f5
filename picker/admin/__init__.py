"""The HTTP port for people and Prometheus."""
