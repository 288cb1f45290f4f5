# No Python face: it is tested through `session.Session` and `prompt.read`.
