"""Retrieval: corpus, index, client and server. Knows no questions."""
