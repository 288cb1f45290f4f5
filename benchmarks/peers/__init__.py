"""picker beside its peers: the same work in the same run, taken in turns."""
