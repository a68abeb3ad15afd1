"""Calibration of "is this a match": a background, queries with and without their picture, and the fit.

```
drawings     hand-like sketches of pictures         copies     manipulated copies of pictures
queries      texts, pictures and sketches, embedded
fitting      coefficients and levels                reliability   what the confidence is worth on other pictures
command      `structxlip calibrate`
```
"""
