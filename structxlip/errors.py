"""What can go wrong with a model, as types.

```
ModelError
├── UnknownModelError          the name means nothing to us
├── ModelUnavailableError      the name is known, its files cannot be fetched
├── UnsupportedModelError      the model has a shape that two views cannot use
├── ConfigError                a part's configuration names something unknown, or a value out of range
├── EncodingError              the model answered with something that is not a vector
└── CheckpointError            a folder that cannot be used
    ├── CheckpointMissingError     a file or the folder itself is not there
    ├── CheckpointFormatError      `config.json` cannot be read as one of ours
    │   └── CheckpointTooNewError      written by a later version of this package
    ├── CheckpointDamagedError     files that are not the ones that were saved: cut short, or changed
    ├── CheckpointMismatchError    weights that do not fit the architecture in `config.json`
    └── CheckpointWriteError       saving failed; what was there before is untouched
```
"""

from __future__ import annotations


class ModelError(Exception):
    """Anything that keeps a model from being loaded, saved or used."""


class UnknownModelError(ModelError):
    """The name is neither bundled, nor a folder, nor a form that names a public model."""


class ModelUnavailableError(ModelError):
    """The model exists, but its files cannot be fetched or read here."""


class UnsupportedModelError(ModelError):
    """The model's shape does not fit: for example an input that is not square."""


class ConfigError(ModelError, ValueError):
    """A configuration names an unknown part or parameter, or a value out of its range."""


class EncodingError(ModelError):
    """The model gave numbers that are not finite."""


class CheckpointError(ModelError):
    """A checkpoint folder that cannot be read or written."""


class CheckpointMissingError(CheckpointError):
    """The folder, or a file that every checkpoint has, is not there."""


class CheckpointFormatError(CheckpointError):
    """`config.json` is not JSON, or lacks what a checkpoint says about itself."""


class CheckpointTooNewError(CheckpointFormatError):
    """`config.json` has a format version that this release does not know yet."""


class CheckpointDamagedError(CheckpointError):
    """The files are not the ones that were saved: cut short, or changed afterwards."""


class CheckpointMismatchError(CheckpointError):
    """The weights do not fit the architecture that `config.json` describes."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written; an earlier one in its place is left as it was."""
