"""Lists the devices that --target knows."""

from __future__ import annotations

import argparse

from hardware_profiles.lookup import load_profile
from hardware_profiles.profile import shipped_profiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(_args: argparse.Namespace) -> int:
    """Prints one line a device."""
    for name, profile in shipped_profiles().items():
        aliases = f" ({', '.join(profile.aliases)})" if profile.aliases else ""
        print(f"{name}{aliases}: {profile.title}")
    print(f"host: {load_profile('host').title}, measured")
    return 0
