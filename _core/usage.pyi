# No Python face: `sse.UsageScanner` is the face of both modules.
