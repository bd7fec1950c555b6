"""Machines that can be reached: over SSH, through a Ray node, and this one."""
