"""python -m swinv2"""

import os
import sys

from swinv2 import world
from swinv2.cli import main

code = main()
if world.current().size > 1:  # the threads that connect processes may abort one that tears itself down
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
