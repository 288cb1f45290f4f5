"""The picker command. Each subcommand is a module with `configure(parser)` and `run(args) -> int`."""
