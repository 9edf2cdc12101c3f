"""The work of the commands: segment, edit, reconstruct, generate, evaluate, demo."""
