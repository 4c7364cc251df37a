"""Other projects' test suites, run from a plain installation and from a pack, and compared test by test: `make compat`."""
