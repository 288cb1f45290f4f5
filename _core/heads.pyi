# No Python face: it is tested through `h2.Connection`.
