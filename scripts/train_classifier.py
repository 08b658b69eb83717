"""Trains a base classifier: the same as ``seam-fast train``, for those who look for a script.

python scripts/train_classifier.py --dataset r8 --recipe public --out data/models/LSTM_classifier.pt
"""

import sys

from seam_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
