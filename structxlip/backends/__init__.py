"""Where a model runs, behind one small seam: three towers that turn arrays into unit vectors.

```
towers         the seam: `Tower`, and the three of a model as `Towers`
eager          `torch`: the modules themselves, on a CPU or a GPU; the reference for everything else
openvino_cpu   `openvino`: the same modules, converted in memory, on the CPU
agreement      how near a tower comes to the reference, and how near is near enough
stored         the converted form beside a checkpoint, as `structxlip export` writes it
selection      from what was asked for to towers that passed the check
```

Training never comes here: it needs gradients, which the modules of the encoder give.
"""
