"""``seam-fast train``: trains a base classifier."""

import argparse
from pathlib import Path

from ...classifier.device_training import training_device
from ...common.arguments import seed_number
from ...common.progress import say
from ..bases import RECIPE_PROTOCOL, describe_base, reusable_base, train_base
from ..corpora import get_corpus
from ..corpus_choice import data_file, dataset_name
from ..disk import check_writable
from ..json_output import print_json
from ..options import Subparsers, add_corpus_options, add_text_options, add_verb, positive, text_settings


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "train", run, "train a base classifier")
    add_corpus_options(parser)
    parser.add_argument("--recipe", choices=("strong", "distilled", "public"), default="strong")
    parser.add_argument("--protocol", choices=("seam", "reference"), help="text treatment (default: the recipe's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=positive, help="default: the recipe's own")
    parser.add_argument("--num-layers", type=positive, default=1, help="LSTM layers")
    parser.add_argument("--bidirectional", action="store_true", help="an LSTM that reads in both directions")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda, where the result differs by rounding")
    add_text_options(parser)
    parser.add_argument("--out", metavar="FILE", help="default: runs/NAME/base.safetensors (base_public.safetensors)")
    parser.add_argument(
        "--reuse", action="store_true", help="keep the base that is there if this command would make the same one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains and saves the base, or keeps the one that is there."""
    name = "base.safetensors" if arguments.recipe == "strong" else f"base_{arguments.recipe}.safetensors"
    dataset, file = dataset_name(arguments) or "r8", data_file(arguments)
    path = Path(arguments.out or Path("runs") / dataset / name)
    # What is wrong with the arguments is found before the corpus is loaded, which may have to be downloaded.
    check_writable(path, (".safetensors", ".pt", ".pth"))
    protocol = arguments.protocol or RECIPE_PROTOCOL[arguments.recipe]
    seed_number(arguments.seed)
    device = training_device(arguments.device)
    texts = text_settings(arguments)
    smallest = arguments.smallest_class
    corpus = get_corpus(dataset, arguments.data_dir, protocol, None, say, smallest, file=file, **texts)
    base = reusable_base(path, corpus, arguments) if arguments.reuse else None
    if base is None:
        base = train_base(
            corpus,
            arguments.recipe,
            arguments.seed,
            path,
            say,
            num_layers=arguments.num_layers,
            bidirectional=arguments.bidirectional,
            epochs=arguments.epochs,
            device=device,
        )
    else:
        say(f"{path} is there already: kept ({describe_base(base)})")
    if arguments.json:
        print_json({"path": str(path), "hash": base.hash, "info": base.info})
    return 0
