"""The data that ships: the music-production advice and its judged questions."""
