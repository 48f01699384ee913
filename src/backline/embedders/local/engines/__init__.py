"""Engines that compute the BERT encoder: OpenVINO, and numpy as the fallback."""
