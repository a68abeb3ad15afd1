"""Measurements that a reader can repeat: `make bench`, or one by one with `python -m benchmarks.NAME`.

add_throughput     pictures/s through POST /index against the bare encoder
search_overhead    POST /search over 100,000 vectors against the bare engine
restart            time until ready with 100,000 stored vectors, with and without a snapshot
training_cost      a training step with all losses against plain fine-tuning
real_photos        recall through POST /search against an exact offline computation
"""

import os

# A measuring process must not spin on the cores that the service needs while it waits for an answer. OpenMP reads it
# when torch and FAISS load; the service itself is started without it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
