"""Fuzzing of everything that reads bytes from outside: `make fuzz`. The inputs: ``corpus/README.md``."""
