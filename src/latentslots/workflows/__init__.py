"""What commands do, from files to files: segment, edit, reconstruct, generate, evaluate, demo."""
