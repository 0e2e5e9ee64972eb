"""`btr-export`: train a reader, export it as a bundle. Needs the `export` extra."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from store.errors import BtrError, ExportError

_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Train a split reader and export it as a bundle."""


@cli.command()
@click.argument("checkpoint", type=_FILE)
@click.argument("out", type=_FILE)
@click.option("--train", "files", type=_FILE, multiple=True, required=True, help="JSONL of questions; repeatable.")
@click.option("--validation", type=_FILE, multiple=True, required=True, help="JSONL of held-out questions; repeatable.")
@click.option("--steps", default=2600, show_default=True, type=click.IntRange(1), help="Optimiser steps.")
@click.option("--split-layer", default=4, show_default=True, type=click.IntRange(1), help="Layers below the split.")
@click.option("--upper-layers", default=2, show_default=True, type=click.IntRange(1), help="Layers above the split.")
@click.option("--binarizer", default="residual", show_default=True, type=click.Choice(["residual", "sign"]))
@click.option("--bits", default=192, show_default=True, type=click.IntRange(8), help="Stored bits per token.")
@click.option(
    "--match-rank", default=16, show_default=True, type=click.IntRange(0), help="0: no shared-token embedding."
)
@click.option("--window", default=144, show_default=True, type=click.IntRange(16, 448), help="Longest passage, tokens.")
@click.option("--pair-tokens", default=4096, show_default=True, type=click.IntRange(64), help="Tokens a step.")
@click.option("--lr", default=2e-4, show_default=True, type=float, help="Of the checkpoint's layers.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--eval-every", default=200, show_default=True, type=click.IntRange(1), help="Steps between dev figures.")
@click.option("--save-every", default=100, show_default=True, type=click.IntRange(1), help="Steps between checkpoints.")
def train(
    checkpoint: Path,
    out: Path,
    files: tuple[Path, ...],
    validation: tuple[Path, ...],
    steps: int,
    split_layer: int,
    upper_layers: int,
    binarizer: str,
    bits: int,
    match_rank: int,
    window: int,
    pair_tokens: int,
    lr: float,
    seed: int,
    device: str,
    eval_every: int,
    save_every: int,
) -> None:
    """Train a split reader from CHECKPOINT (a folder) into the run folder OUT; go on if OUT holds a stopped run.

    Example: btr-export train all-MiniLM-L6-v2/ runs/first --train train.jsonl.gz --validation validation.jsonl.gz
    """
    from export.reader import SplitConfig
    from export.train import TrainConfig
    from export.train import train as run

    split = SplitConfig(
        split_layer=split_layer, upper_layers=upper_layers, binarizer=binarizer, bits=bits, match_rank=match_rank
    )
    config = TrainConfig(steps=steps, window=window, pair_tokens=pair_tokens, lr=lr, seed=seed)
    figures = run(
        checkpoint,
        list(files),
        list(validation),
        out,
        split,
        config,
        device,
        eval_every=eval_every,
        save_every=save_every,
    )
    click.echo(f"{out}: {figures}")


@cli.command()
@click.argument("run", type=_FILE)
@click.argument("out", type=_FILE)
@click.option("--name", default="btr-minilm", show_default=True, help="The bundle's name.")
@click.option("--precision", default="int8", show_default=True, type=click.Choice(["int8", "float32"]))
@click.option(
    "--null-logit", default=0.0, show_default=True, type=float, help="What a span must score to be an answer."
)
@click.option("--with-unsplit", is_flag=True, help="Also export the reader without a split, for benchmarks.")
def bundle(run: Path, out: Path, name: str, precision: str, null_logit: float, with_unsplit: bool) -> None:
    """Export the training run RUN to the bundle folder OUT, after checking it against the reader.

    Example: btr-export bundle runs/first my-bundle/
    """
    from export.bundle import make_bundle

    manifest = make_bundle(run, out, name, precision, with_unsplit, null_logit)
    click.echo(f"{out}: {manifest.fingerprint}, {manifest.measured}")


def main() -> None:
    """The `btr-export` command: errors a person can act on become one sentence and an exit code."""
    try:
        try:
            import optimum.exporters.onnx  # noqa: F401
            import torch  # noqa: F401
        except ModuleNotFoundError as error:
            missing = f"{error.name} is not installed: pip install 'btr-assistant[export]'"
            raise ExportError(missing) from error
        sys.exit(cli.main(standalone_mode=False) or 0)
    except BtrError as error:
        click.echo(f"btr-export: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("btr-export: interrupted; the same command goes on from the last checkpoint", err=True)
        sys.exit(130)
