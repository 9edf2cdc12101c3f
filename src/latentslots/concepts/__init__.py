"""Concept libraries: slots of many images, clustered, to compose new scenes from.

A new scene is a set of slots, each taken from another image (Jiang et al., 2023,
https://arxiv.org/abs/2303.10834, Sec. 4.3).
"""

from latentslots.concepts.layouts import Layout
from latentslots.concepts.library import INFO_NAME, TENSORS_NAME, ConceptLibrary, LibraryInfo

__all__ = ["INFO_NAME", "TENSORS_NAME", "ConceptLibrary", "Layout", "LibraryInfo"]
