"""The studio in a real Chromium, against a real `backline serve` on the embedded Postgres."""
