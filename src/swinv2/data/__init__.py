"""Data: any set of pictures as a Split, and batches of them for torch.

split.py says what a part of a data set is; formats.py finds what lies somewhere, folder.py, lists.py, tars.py
and tables.py read it; order.py and loader.py make batches; check.py looks for what is wrong, prepare.py and
pack.py make sets ready.
"""

from swinv2.data.command import COMMANDS
from swinv2.data.formats import read_split, read_training
from swinv2.data.split import DataError, Split, divide

__all__ = ["COMMANDS", "DataError", "Split", "divide", "read_split", "read_training"]
