"""Tests of the driver: `python3 -m unittest discover -s vm-tests/driver/tests -t vm-tests`."""
