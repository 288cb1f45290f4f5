# No Python face: it is tested through `bbr.Exchange`.
