"""An invented corpus in files, as somebody's own, and where the command line puts a module of it."""

import torch

NAMES = ("earn", "grain", "ship")


def documents(count, seed=0, names=NAMES):
    """Lines of documents of 8 invented words, half of them typical of the class."""
    random = torch.Generator().manual_seed(seed)

    def draw(n):
        return int(torch.randint(n, (), generator=random))

    lines = []
    for n in range(count):
        k = n % len(names)
        words = [f"{names[k]}{draw(6)}" if draw(2) else f"all{draw(20)}" for _ in range(8)]
        lines.append(f"{names[k]}\t{' '.join(words)}\n")
    return lines


TRAIN, TEST = documents(60), documents(30, seed=1)


def write(folder, train=TRAIN, test=TEST):
    folder.mkdir(exist_ok=True)
    (folder / "own-train-all-terms.txt").write_text("".join(train))
    (folder / "own-test-all-terms.txt").write_text("".join(test))
    return folder


MODULE = "runs/own/modules/1-grain.safetensors"  # in the folder of the fixture `finished`
