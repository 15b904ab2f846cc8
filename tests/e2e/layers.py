"""The layers of a folder's image, by the format's second implementation.

    layers.py FOLDER

prints, for each layer of the `split` layout: blob digest, diff id, TOC digest,
size. The bytes are made by docs/layer_format.py, which shares no code with the
real one.
"""

import hashlib
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs"))
from layer_format import layer

LARGE = 256 << 20
BUCKET = 4 << 30
MOST_LARGE = 96


def split(sizes):
    """The paths of each layer; `sizes` is {path: size} in path order."""
    large = [path for path, size in sizes.items() if size >= LARGE]
    small = [path for path, size in sizes.items() if size < LARGE]
    run = max(1, -(-len(large) // MOST_LARGE))
    layers = [large[i : i + run] for i in range(0, len(large), run)]
    total, count = sum(sizes[path] for path in small), 1
    while total > count * BUCKET:
        count *= 2
    buckets = [[] for _ in range(count)]
    for path in small:
        first = hashlib.sha256(path.encode()).digest()[:8]
        buckets[int.from_bytes(first, "big") % count].append(path)
    return layers + [bucket for bucket in buckets if bucket]


def main(folder):
    root = pathlib.Path(folder)
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    sizes = {path: (root / path).stat().st_size for path in sorted(files, key=str.encode)}
    for paths in split(sizes):
        made = layer({path: (root / path).read_bytes() for path in paths})
        print(made["blob"], made["diff id"], made["toc"], made["size"])


if __name__ == "__main__":
    main(sys.argv[1])
