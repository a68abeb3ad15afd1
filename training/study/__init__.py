"""A study: arms × seeds × folds of one training configuration, compared query by query.

    python -m training.study training/study/photos.yaml

```
plan      which runs there are, read from YAML
pool      the records, how they are divided, and what all runs share: features, regions, texts
runs      one run: trained in memory, the best validation kept, measured on its test part
results   one JSON line a run: a study can be stopped at any moment and continued later
tables    mean ± sd, and paired bootstrap intervals of the differences; Markdown and plots
```
"""
