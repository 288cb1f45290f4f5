"""The body-based router: routing headers made of request bodies, base models, and plugins that see what passes."""
