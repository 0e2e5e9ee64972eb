"""`btr-export`: train a reader, export it as a bundle. Needs the `export` extra."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from store.bundle import MOST_MERGED
from store.errors import BtrError, ExportError

_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Train a split reader and export it as a bundle."""


@cli.command()
@click.argument("checkpoint")
@click.argument("out", type=_FILE)
@click.option("--train", "files", type=_FILE, multiple=True, required=True, help="JSONL of questions; repeatable.")
@click.option("--validation", type=_FILE, multiple=True, required=True, help="JSONL of held-out questions; repeatable.")
@click.option("--recipe", "recipe_file", type=_FILE, help="TOML with a table per step; without it, the defaults.")
@click.option("--set", "settings", multiple=True, metavar="TABLE.NAME=VALUE", help="One setting of the recipe.")
@click.option("--share", type=_FILE, help="A run whose finished steps are used where the recipe is the same.")
@click.option(
    "--start-full", type=_FILE, help="A run whose full reader, or split one's layers, the full step starts from."
)
@click.option("--start", type=_FILE, help="A run whose split reader the decomposed step starts from.")
@click.option("--start-binarized", type=_FILE, help="A run whose binarized step goes on, alone if it has the others.")
@click.option("--retrieved", type=_FILE, multiple=True, help="JSONL with noisy answers and hard_negatives; repeatable.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--eval-every", default=200, show_default=True, type=click.IntRange(1), help="Steps between dev figures.")
@click.option(
    "--dev-passages", default=200, show_default=True, type=click.IntRange(1), help="Passages that they are of."
)
@click.option("--save-every", default=100, show_default=True, type=click.IntRange(1), help="Steps between checkpoints.")
def train(
    checkpoint: str,
    out: Path,
    files: tuple[Path, ...],
    validation: tuple[Path, ...],
    recipe_file: Path | None,
    settings: tuple[str, ...],
    share: Path | None,
    start_full: Path | None,
    start: Path | None,
    start_binarized: Path | None,
    retrieved: tuple[Path, ...],
    device: str,
    eval_every: int,
    dev_passages: int,
    save_every: int,
) -> None:
    """Train a reader from CHECKPOINT into the run folder OUT in three steps; go on if OUT was stopped.

    CHECKPOINT is a BERT's or T5's folder, or its name on the Hugging Face hub: google/flan-t5-small.

    Example: btr-export train all-MiniLM-L6-v2/ runs/first --train train.jsonl.gz --validation validation.jsonl.gz
    """
    from export.hub import fetch
    from export.recipe import default_recipe, load_recipe
    from export.saved import alone_in
    from export.t5 import model_type
    from export.train import train as run

    folder = fetch(checkpoint)
    recipe = load_recipe(recipe_file, settings, default_recipe(model_type(folder)))
    with alone_in(out):
        figures = run(
            folder,
            files,
            validation,
            out,
            recipe,
            device,
            share,
            start_full,
            start,
            start_binarized,
            retrieved,
            dev_passages=dev_passages,
            eval_every=eval_every,
            save_every=save_every,
        )
    for step, dev in figures.items():
        click.echo(f"{out / step}: {dev}")


@cli.command()
@click.argument("out", type=_FILE)
@click.option("--text", "files", type=_FILE, multiple=True, required=True, help="JSONL of articles; repeatable.")
@click.option("--count", default=10_000, show_default=True, type=click.IntRange(1), help="Questions.")
@click.option("--seed", default=0, show_default=True, help="Decides which articles are asked of.")
def questions(out: Path, files: tuple[Path, ...], count: int, seed: int) -> None:
    """Write questions into OUT that the first sentences of articles answer: what is X, when was X born, where is X.

    Example: btr-export questions definitions.jsonl --text simplewiki.jsonl.gz
    """
    from export.synthesis import write_questions

    click.echo(f"{out}: {write_questions(files, out, count, seed):,} questions")


@cli.command()
@click.argument("out", type=_FILE)
@click.option("--text", "files", type=_FILE, multiple=True, required=True, help="JSONL of texts; repeatable.")
@click.option("--steps", default=20_000, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Windows a step.")
@click.option("--window", default=256, show_default=True, type=click.IntRange(16), help="Tokens a window.")
@click.option(
    "--vocabulary", default=32_000, show_default=True, type=click.IntRange(200), help="Words of the tokenizer."
)
@click.option("--hidden", default=512, show_default=True, type=click.IntRange(32), help="Hidden size.")
@click.option("--layers", default=8, show_default=True, type=click.IntRange(2), help="Layers of the encoder.")
@click.option("--decoder-layers", type=click.IntRange(1), help="Layers of the decoder (default: as many; --like: 3).")
@click.option("--like", help="A BERT checkpoint, a folder or on the hub: the T5 begins as it, and learns from it.")
@click.option("--lr", default=1e-3, show_default=True, type=click.FloatRange(0, 1), help="Learning rate.")
@click.option("--encoder-lr", type=click.FloatRange(0, 1), help="Of encoder and words (default: the same).")
@click.option(
    "--recurring",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the windows that lose what stands in them a second time.",
)
@click.option(
    "--copying",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Weight of a loss by which the decoder looks at the tokens that it writes.",
)
@click.option(
    "--imitating",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="First steps that learn the states of --like alone.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def pretrain(
    out: Path,
    files: tuple[Path, ...],
    steps: int,
    batch: int,
    window: int,
    vocabulary: int,
    hidden: int,
    layers: int,
    decoder_layers: int | None,
    like: str | None,
    lr: float,
    encoder_lr: float | None,
    recurring: float,
    copying: float,
    imitating: int,
    device: str,
) -> None:
    """Train a T5 from text alone into the checkpoint folder OUT, for `btr-export train`; go on if OUT was stopped.

    Example: btr-export pretrain t5-small/ --text simplewiki.jsonl.gz
    """
    from export.hub import fetch
    from export.pretrain import Pretraining, Shape
    from export.pretrain import pretrain as run
    from export.saved import alone_in

    heads = max(2, hidden // 64 - 2) if hidden >= 384 else 4
    shape = Shape(vocabulary, hidden, 2 * hidden, heads, layers, decoder_layers or (3 if like else layers))
    recipe = Pretraining(shape, steps, lr, encoder_lr, batch, window, recurring, copying, imitating)
    start = fetch(like) if like else None
    with alone_in(out):
        click.echo(f"{out}: {run(files, out, recipe, device, start)}")


@cli.command()
@click.argument("run", type=_FILE)
@click.argument("out", type=_FILE)
@click.option("--name", help="The bundle's name (default: btr-minilm, or btr-t5 for a generative reader).")
@click.option("--precision", default="int8", show_default=True, type=click.Choice(["int8", "float32"]))
@click.option(
    "--calibration",
    type=(float, float, float),
    default=(0.0, 1.0, 0.5),
    show_default=True,
    metavar="NULL_LOGIT TEMPERATURE THRESHOLD",
    help="As btr-assistant calibrate prints it.",
)
@click.option(
    "--ratio",
    default=0.0,
    show_default=True,
    metavar="R",
    type=click.FloatRange(0, MOST_MERGED),
    help="Share of tokens that a generative reader merges as it reads.",
)
@click.option("--with-baselines", is_flag=True, help="Also export the run's full reader and its float split reader.")
def bundle(
    run: Path,
    out: Path,
    name: str | None,
    precision: str,
    calibration: tuple[float, float, float],
    ratio: float,
    with_baselines: bool,
) -> None:
    """Export the training run RUN to the bundle folder OUT, after checking it against the reader.

    Example: btr-export bundle runs/first my-bundle/
    """
    from export.bundle import Calibration, make_bundle

    manifest = make_bundle(run, out, name, precision, with_baselines, Calibration(*calibration), ratio)
    click.echo(f"{out}: {manifest.fingerprint}, {manifest.measured}")


@cli.command()
@click.argument("bundle", type=_FILE)
@click.argument("checkpoint")
@click.argument("out", type=_FILE)
@click.option("--layers-alone", is_flag=True, help="Write a BERT checkpoint of its layers, for `pretrain --like`.")
def unpack(bundle: Path, checkpoint: str, out: Path, layers_alone: bool) -> None:
    """Read the weights of BUNDLE, made from CHECKPOINT, back into the run folder OUT, for training to start from.

    Example: btr-export unpack my-bundle/ all-MiniLM-L6-v2/ runs/unpacked
    """
    from export.hub import fetch
    from export.unpack import unpack as run

    manifest = run(bundle, fetch(checkpoint), out, layers_alone)
    use = "pretrain --like" if layers_alone else "--start-full, --start and --start-binarized"
    click.echo(f"{out}: {manifest.name}, {manifest.fingerprint}; give it to {use}")


def _need_extra() -> None:
    try:
        import optimum.exporters.onnx  # noqa: F401
        import sentencepiece  # noqa: F401
        import torch  # noqa: F401
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed: pip install 'btr-assistant[export]'") from error
    logging.set_verbosity_error()  # what it warns of is checked here, and said in one sentence
    logging.disable_progress_bar()


def main() -> None:
    """The `btr-export` command: errors a person can act on become one sentence and an exit code."""
    try:
        if not {"-h", "--help"}.intersection(sys.argv):
            _need_extra()
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
