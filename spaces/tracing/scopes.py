"""Modules that a person wants left alone, by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from spaces.tracing.network import Group, Network


@dataclass(frozen=True)
class LeftAlone:
    """Patterns as of file names (``layer4.*``, ``*.conv1``); a module's name stands for all in it.

    Layers of ``keep_float`` are not quantized, channels of ``keep_width`` not pruned; what is of
    ``exclude`` is neither, and no block is left out that holds some of it.
    """

    keep_float: tuple[str, ...] = ()
    keep_width: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def unmatched(network: Network, scopes: LeftAlone) -> list[str]:
    """Patterns that are of no layer, channels or block of the network."""
    layers = [layer.name for layer in network.layers]
    pruned = [layer for group in network.groups for layer in group.layers] + [*network.fixed]
    pruned += [group.name for group in network.groups]
    named = {
        "keep_float": layers,
        "keep_width": pruned,
        "exclude": [*layers, *pruned, *network.blocks],
    }
    return [
        pattern
        for kind, names in named.items()
        for pattern in getattr(scopes, kind)
        if not any(matches(name, [pattern]) for name in names)
    ]


def left_alone(network: Network, scopes: LeftAlone) -> Network:
    """The network in which nothing of the patterns can be chosen."""
    in_float = [*scopes.keep_float, *scopes.exclude]
    whole = [*scopes.keep_width, *scopes.exclude]
    kept = [g for g in network.groups if any(matches(n, whole) for n in (g.name, *g.layers))]
    layers = tuple(layer for layer in network.layers if not matches(layer.name, in_float))
    blocks = tuple(b for b in network.blocks if not _holds(b, network, scopes.exclude))
    return replace(
        network,
        layers=layers,
        groups=tuple(group for group in network.groups if group not in kept),
        blocks=blocks,
        fixed={**network.fixed, **{group.name: _why(group, scopes) for group in kept}},
    )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module, or one that it is in, is of a pattern."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def _holds(block: str, network: Network, patterns: Sequence[str]) -> bool:
    inside = [la.name for la in network.layers if la.name.startswith(f"{block}.")]
    return any(matches(name, patterns) for name in (block, *inside))


def _why(group: Group, scopes: LeftAlone) -> str:
    excluded = any(matches(name, scopes.exclude) for name in (group.name, *group.layers))
    return f"left alone, as --{'exclude' if excluded else 'keep-width'} says"
