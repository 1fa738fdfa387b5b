"""Tests of a machine: real worker processes, and the contract that every driver keeps."""
