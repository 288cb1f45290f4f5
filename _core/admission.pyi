# No Python face: it is tested through `session.Session` and `engine.Engine`.
