"""The bundled English tagger and parser: its data, its training, and the judgement of the filters on it."""
