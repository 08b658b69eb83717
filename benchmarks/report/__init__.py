"""Tables, sentences and pictures from the committed records."""
