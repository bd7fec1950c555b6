"""Seeded, stratified, disjoint splits that keep identical images together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from search.inputs.data.raw import Pixels, SplitName

SHARES: Mapping[SplitName, float] = {"train": 0.5, "validation": 0.2, "test": 0.3}
CALIBRATION_IMAGES = 256


def group_duplicates(pixels: Iterable[Pixels]) -> NDArray[np.int64]:
    """A number for each image, (N,), which identical images share."""
    numbers: dict[bytes, int] = {}
    digests = (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels)
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)


def split_indices(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: Mapping[SplitName, float],
    seed: int,
) -> dict[SplitName, NDArray[np.int64]]:
    """Indices of each split, sorted; together they are all images, each once.

    Within a class, each group of identical images goes to the split that lacks most, large
    groups first. Where all images differ, each split's count of each class is therefore less
    than one image away from its share. A group with different labels counts for its first.
    """
    random = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for group_members in members.values():
        by_class[int(labels[group_members[0]])].append(group_members)

    total = sum(shares.values())
    chosen: dict[SplitName, list[int]] = {name: [] for name in shares}
    for label in sorted(by_class):
        in_class = by_class[label]
        order = random.permutation(len(in_class)).tolist()
        count = sum(len(group_members) for group_members in in_class)
        missing = {name: share / total * count for name, share in shares.items()}
        for position in sorted(order, key=lambda position: -len(in_class[position])):
            name = max(missing, key=lambda name: missing[name])
            chosen[name].extend(in_class[position])
            missing[name] -= len(in_class[position])
    return {name: np.array(sorted(indices), np.int64) for name, indices in chosen.items()}


def split_groups(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: Mapping[SplitName, float],
    seed: int,
) -> dict[SplitName, NDArray[np.int64]]:
    """The same where groups are large and of several classes: each is in one split.

    Large ones first, each goes where its classes are missed most. What one group is too large
    for is as far from its share as that group is large.
    """
    random = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    total = sum(shares.values())
    missing = {name: share / total * counts for name, share in shares.items()}
    chosen: dict[SplitName, list[int]] = {name: [] for name in shares}
    order = random.permutation(len(members)).tolist()
    for position in sorted(order, key=lambda position: -len(members[position])):
        inside = members[position]
        has = np.bincount(np.searchsorted(classes, labels[inside]), minlength=len(classes))
        name = max(missing, key=lambda name: float((missing[name] / counts) @ has))
        chosen[name].extend(inside.tolist())
        missing[name] = missing[name] - has
    return {name: np.array(sorted(indices), np.int64) for name, indices in chosen.items()}


def joined(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers, (N,), that images share which are linked by either of two groupings."""
    # Each image is an edge from its group of the one kind to its group of the other.
    first = int(one.max()) + 1
    size = first + int(other.max()) + 1
    edges = sparse.coo_array((np.ones(len(one)), (one, first + other)), shape=(size, size))
    _, numbers = sparse.csgraph.connected_components(edges, directed=False)
    return np.asarray(numbers[one], np.int64)


def stratified_part(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices of at most ``count`` images, each class in proportion."""
    if len(labels) <= count:
        return np.arange(len(labels), dtype=np.int64)
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    # The place of an image within its class, as a share of that class: the smallest come first.
    ranks = np.empty(len(labels))
    for label in np.unique(labels):
        places = order[labels[order] == label]
        ranks[places] = (np.arange(len(places)) + random.random()) / len(places)
    return np.sort(np.argsort(ranks, kind="stable")[:count]).astype(np.int64)


def missing_shares(given: Sequence[SplitName]) -> dict[SplitName, float]:
    """The shares by which ``train`` is divided where the source gives ``given``."""
    return {name: share for name, share in SHARES.items() if name == "train" or name not in given}
