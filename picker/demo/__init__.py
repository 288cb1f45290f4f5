"""The demo: model servers, a real Envoy and picker on this machine, under load. Everything it starts, it ends."""
