# No Python face: it is tested through `quotas.Quota`.
