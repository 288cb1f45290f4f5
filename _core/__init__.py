"""The Cython core: no I/O, no clock, no logging. Import the modules by name."""
