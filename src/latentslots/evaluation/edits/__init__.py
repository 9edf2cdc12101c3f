"""Scores of edits, held against the true picture of the edited scene."""
