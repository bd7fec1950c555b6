"""What can go wrong with the emulator."""


class EmulatorError(RuntimeError):
    """The emulator is missing, could not be set up, crashed or hung; one line says which."""
