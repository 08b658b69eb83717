"""Documents: corpora of one's own, R8 and a made-up one; tokenizers; all code that parses files of text or downloads."""
