"""Engines that compute the encoder."""
