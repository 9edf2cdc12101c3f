"""Scenes rendered by MuJoCo, similar to CLEVR, CLEVRTex and MOVi, without a download."""
