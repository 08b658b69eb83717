"""Documents: corpora of one's own, R8 and a made-up one, and tokenizers: all code that parses texts or downloads."""
