"""What Python makes of a file that a client wrote, as JSON on standard output.

python -m conformance.read_back image-kv BUNDLE FILE PROMPT    the greedy answer from a saved ImageKV
python -m conformance.read_back record FILE                    a benchmark record
"""

import json
import sys

from conformance.answers import LIMIT
from himix_edge.bench.record import read_records
from himix_edge.runtimes import ImageKV, open_bundle


def main(kind: str, *arguments: str) -> None:
    if kind == "record":
        (file,) = arguments
        print(json.dumps([record.model_dump(mode="json") for record in read_records(file)]))
    elif kind == "image-kv":
        bundle, file, prompt = arguments
        pieces = list(open_bundle(bundle).generate(prompt, ImageKV.load(file), max_new_tokens=LIMIT, temperature=0))
        print(json.dumps({"token_ids": [p.token_id for p in pieces], "text": "".join(p.text for p in pieces)}))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
