"""Data: image folders (folder.py), data sets made ready (prepare.py), batches for torch (loader.py)."""

from swinv2.data.command import COMMANDS
from swinv2.data.folder import DataError, ImageFolder, read_split, read_training

__all__ = ["COMMANDS", "DataError", "ImageFolder", "read_split", "read_training"]
