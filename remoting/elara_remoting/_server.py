"""The compiled module `_server`, of the core that was built for the installed PyTorch."""

import sys

import torch

from elara_remoting import _core

sys.modules[__name__] = _core.load("_server", str(torch.__version__))
