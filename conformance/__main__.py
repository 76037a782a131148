"""Write the conformance suite for one or more bundles of the shipped nano.

    python -m conformance --out DIR BUNDLE [BUNDLE ...]

The hostile copies are made from the first bundle. conformance/README.md says what DIR holds.
"""

import argparse
from pathlib import Path

from conformance.suite import write
from himix_edge.errors import HimixError

parser = argparse.ArgumentParser(
    prog="python -m conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
parser.add_argument("--out", type=Path, required=True, help="A new folder, or one with an earlier suite.")
parser.add_argument(
    "--smollm2", action="store_true", help="Also SmolLM2's tokenizer, from the model's package (93 MB)."
)
arguments = parser.parse_args()
try:
    write(arguments.out, arguments.bundles, smollm2=arguments.smollm2)
except HimixError as error:
    parser.error(str(error))
