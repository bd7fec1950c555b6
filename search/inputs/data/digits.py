"""The embedded default: scikit-learn's 1,797 handwritten digits, 8x8 gray, resized to 32x32.

They come with scikit-learn (UCI "Optical Recognition of Handwritten Digits", E. Alpaydin and
C. Kaynak, 1998, CC BY 4.0), so that the first run needs no download.
"""

from __future__ import annotations

import numpy as np

from search.errors import InputError
from search.inputs.data.raw import ArrayImages, RawData, RawSplit

PREFIX = "digits"
USAGE = "digits"


def check(argument: str) -> None:
    """Raises InputError when there is an argument."""
    if argument:
        raise InputError(f"digits takes no argument, but got {argument!r}; write --data digits")


def load(argument: str) -> RawData:
    """The digits, in one piece.

    Raises:
        InputError: there is an argument.
    """
    check(argument)
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the values are 0..16
    split = RawSplit(ArrayImages(gray[:, None]), digits.target.astype(np.int64))
    return RawData("digits", {"train": split}, tuple("0123456789"), size=(32, 32))
