"""The parts of the trainer, each of which can be read, and copied, alone."""
