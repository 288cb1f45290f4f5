# No Python face: it is tested through `session.Session`.
