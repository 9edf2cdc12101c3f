"""Scenes made by MuJoCo: like CLEVR, CLEVRTex and MOVi, on any machine, without a download."""
