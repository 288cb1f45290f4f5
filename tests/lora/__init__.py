"""The adapters' side-car: its file, what it does to a model server, and the command."""
