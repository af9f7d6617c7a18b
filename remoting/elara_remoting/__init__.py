"""Elara's remoting: remote accelerators as CUDA devices of an unmodified PyTorch program."""

__version__ = "0.1.0"
