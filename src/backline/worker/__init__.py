"""The engine: lease rows, embed their texts, write the vectors."""
