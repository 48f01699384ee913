"""Tests of the studio in Chromium against `backline serve` on the embedded Postgres."""
