"""Writes the ELPV solar cells as a .npz file: gray, two classes, ready for ``--data npz:``.

    pip install elpv-dataset
    python examples/elpv_npz.py elpv.npz --size 128
    python -m search --data npz:elpv.npz --target arm --max-drop 0.03

ELPV: 2,624 electroluminescence images of solar cells, 300x300 gray (Buerhop-Lutz et al., 2018;
CC BY-NC-SA 4.0: not for commercial use), each with the probability of a defect that experts gave:
0, 1/3, 2/3 or 1. Only 0 and 1 are kept (1,508 functional, 715 defective cells). The 401 between
are those where the experts were themselves unsure: as labels they are noise, and noise on the test
split makes every drop of accuracy harder to show. ``--keep-unsure`` keeps them, split at 1/2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Writes the ELPV solar cells as a .npz file of gray images in two classes.",
        epilog="Takes about ten seconds. Needs: pip install elpv-dataset",
    )
    parser.add_argument("file", type=Path, help="the .npz file to write")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default: 128)")
    parser.add_argument(
        "--keep-unsure",
        action="store_true",
        help="keep cells with a probability of 1/3 (as functional) and 2/3 (as defective)",
    )
    options = parser.parse_args()
    if not 8 <= options.size <= 300:
        parser.error(f"--size must be 8 to 300 (the images are 300x300), but got {options.size}")
    if options.file.suffix != ".npz" or not options.file.resolve().parent.is_dir():
        parser.error(f"file must be a .npz in a folder that exists, but got {str(options.file)!r}")
    try:
        from elpv_dataset.utils import load_dataset
    except ModuleNotFoundError:
        parser.error("the images come from a package; run: pip install elpv-dataset")

    images, probability, _ = load_dataset()
    is_kept = options.keep_unsure | np.isin(probability, (0, 1))
    labels = (probability[is_kept] > 0.5).astype(np.int64)
    side = (options.size, options.size)
    resized = [
        np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR))
        for image in images[is_kept]
    ]
    np.savez_compressed(
        options.file,
        images=np.stack(resized),
        labels=labels,
        classes=np.array(["functional", "defective"]),
    )
    functional, defective = np.bincount(labels)
    print(
        f"wrote {options.file}: {len(labels)} images of {options.size}x{options.size}, "
        f"{functional} functional, {defective} defective"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
