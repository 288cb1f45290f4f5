# No Python face: it is tested through `queue.Queue`.
