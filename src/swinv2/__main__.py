"""python -m swinv2"""

import sys

from swinv2.cli import main

sys.exit(main())
