"""The query algebra: from words, pictures and sketches to one vector over both views, and back to two numbers.

```
queries      terms → one query vector, and a hit's score split in two
negatives    what a hit must not look like
finding      one search: hits, confidence, exclusions, "nothing matches"
cache        embeddings of queries, kept by content
```

Plain Python over a collection; no HTTP and no model here.
"""
