"""Other projects' test suites, run from an installation and from a pack, and compared: `make compat`."""
