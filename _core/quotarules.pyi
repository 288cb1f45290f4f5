# No Python face: `quotas.Quota` is the face of both modules.
