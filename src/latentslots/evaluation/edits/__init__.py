"""Evaluation of edits, against true images of the edited scenes."""
