"""Corpora: reading, checking and encoding documents; tokenizers; R8 and a generated corpus of its shape."""
