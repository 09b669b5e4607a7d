"""Runs the stories of the VM tests in Debian machines, with the common part of the NixOS test driver's API."""
