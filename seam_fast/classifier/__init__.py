"""The base: the LSTM classifier, its checkpoints, what it says of documents, how it is trained and judged."""
