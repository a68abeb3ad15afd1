"""``python -m training.scenes``: writes a data set, a contact sheet, or the sample pictures of the demo."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from training.scenes.dataset import SceneDataset
from training.scenes.splits import SPLITS
from training.scenes.writing import write_contact_sheet, write_dataset, write_samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and prints what it wrote."""
    options = _parser().parse_args(arguments)
    if options.command == "samples":
        print(write_samples(options.out))
        return 0
    dataset = SceneDataset(options.split, options.num, options.seed, options.size)
    if options.command == "sheet":
        write_contact_sheet(dataset, options.out, options.columns)
        print(options.out)
    else:
        print(write_dataset(dataset, options.out, num_captions=options.captions))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.scenes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="pictures and a manifest of captions and facts")
    _add_dataset_options(write, num=1000, size=128)
    write.add_argument("--captions", type=_positive, default=1, help="phrasings of each caption")
    sheet = commands.add_parser("sheet", help="one picture of many scenes")
    _add_dataset_options(sheet, num=24, size=256)
    sheet.add_argument("--columns", type=_positive, default=6)
    samples = commands.add_parser("samples", help="the sample pictures of the demo")
    samples.add_argument("--out", type=Path, required=True, help="folder")
    return parser


def _add_dataset_options(parser: argparse.ArgumentParser, *, num: int, size: int) -> None:
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--num", type=_positive, default=num, help="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=_positive, default=size, help="side of the pictures in pixels")
    parser.add_argument("--out", type=Path, required=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
