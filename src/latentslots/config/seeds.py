"""The range of seeds."""

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy, torch and Accelerate all accept."""


def check_seed(seed: int) -> None:
    """Refuse a number that some of the random generators cannot start from.

    Raises:
        ValueError: If the number is below 0 or above `MAX_SEED`.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be from 0 to {MAX_SEED}, got {seed}")
