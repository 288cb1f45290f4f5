# No Python face: `sse.Restorer` is the face.
