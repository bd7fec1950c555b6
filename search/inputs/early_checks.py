"""What is refused at once: typos show before torch is imported, which takes seconds."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from search.inputs.data.folder import check_splits
from search.inputs.data.preprocessing import parse_image_size, read_preprocess
from search.inputs.data.raw import SPLIT_NAMES, SplitName
from search.inputs.models.weights_file import check_weights_file
from search.inputs.sources import find_source
from search.publishing.registry import check_registration
from search.running.study_folder import check_folder


def check_early(args: Namespace, target: str, model: Any, data: Any) -> None:
    """Looks at what the options name, as far as that is quick; leaves nothing behind.

    ``target`` is the profile's name; ``model`` and ``data`` are names, objects, or None.

    Raises:
        SearchError: something isn't there, or is misspelled.
    """
    if not args.dry_run:
        check_folder(args.output, args.study, args.resume, target)
    if args.register is not None:
        check_registration(args.register, target)
    if args.weights is not None:
        check_weights_file(args.weights)
    if args.image_size is not None:
        parse_image_size(args.image_size)
    if args.preprocess is not None:
        read_preprocess(args.preprocess)
    splits: dict[SplitName, Any] = {
        SPLIT_NAMES[name]: folder
        for name in ("train", "val", "test")
        if (folder := getattr(args, name)) is not None
    }
    check_splits(splits)
    for package, kind, spec in (
        ("search.inputs.models", "a model", model),
        ("search.inputs.data", "data", data),
    ):
        if isinstance(spec, str):
            source, argument = find_source(package, spec, kind)
            source.check(argument)
