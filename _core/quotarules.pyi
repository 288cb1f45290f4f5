# No Python face: `quota.Quota` is the face of both modules.
