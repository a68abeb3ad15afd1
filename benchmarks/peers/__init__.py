"""Other servers, measured side by side with ours: the same machine, weights and requests, in turn.

    python -m benchmarks.peers.install infinity clip-retrieval     # each into an environment of its own, .peers/
    python -m benchmarks.peers.infinity                            # an embedding server
    python -m benchmarks.peers.clip_retrieval                      # a search back end

They are no part of this project's tests: only the harness is, at a tiny size, with our service on both sides.
"""
