"""Calibration of "is this a match": a background, queries with and without their picture, and the fit.

```
copies       manipulated copies of pictures
queries      texts, pictures and sketches (`training.data.sketches`), embedded
fitting      coefficients and levels                reliability   what the confidence is worth on other pictures
command      `structxlip calibrate`
```
"""
