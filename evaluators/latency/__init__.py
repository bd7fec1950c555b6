"""Milliseconds: measured here or on a device, counted on an emulated core, estimated."""
