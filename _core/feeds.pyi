# No Python face: it is tested through `prompt.read`.
