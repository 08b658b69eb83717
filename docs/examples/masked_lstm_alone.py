"""The masked LSTM alone, in a training loop: which weights of a trained LSTM does one of its tasks need?

An LSTM and a linear layer learn, for sequences of unequal lengths, which of two features has the larger sum. Then all
weights are frozen, and a score for each of the LSTM's learns which of them can go, under a penalty on what is kept.

    python docs/examples/masked_lstm_alone.py
"""

import argparse

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seam_fast as sf


def draw(batch: int, steps: int, features: int, generator: torch.Generator):
    """Sequences (T, B, I), their lengths (B,), and labels (B,): 1 where feature 0 has the larger sum than feature 1."""
    input = torch.randn(steps, batch, features, generator=generator)
    lengths = torch.randint(steps // 2, steps + 1, (batch,), generator=generator)
    input = input * (torch.arange(steps)[:, None] < lengths)[:, :, None]
    return input, lengths, (input[:, :, 0].sum(0) > input[:, :, 1].sum(0)).long()


def last(output: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The outputs (B, H) at each sequence's last step."""
    return output[lengths - 1, torch.arange(len(lengths))]


def main(argv=None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="training steps, of the LSTM and then of the scores")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--penalty", type=float, default=2.0, help="alpha: what keeping all weights costs")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # at sizes as small as these, threads would cost more than they save
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    features, batch, length = 8, 64, 20

    # A plain LSTM, trained as usual.
    lstm, linear = nn.LSTM(features, arguments.hidden), nn.Linear(arguments.hidden, 2)
    adam = torch.optim.Adam([*lstm.parameters(), *linear.parameters()], lr=0.01)
    for _ in range(arguments.steps):
        input, lengths, labels = draw(batch, length, features, generator)
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        output, _ = pad_packed_sequence(lstm(packed)[0])
        loss = nn.functional.cross_entropy(linear(last(output, lengths)), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()

    # The same weights, frozen, with a score for each. The penalty is a constant gradient of every score.
    masked = sf.MaskedLSTM.from_lstm(lstm)
    linear.requires_grad_(False)
    scores = sf.ScoreAdam(masked.scores(), lr=0.05, penalty=arguments.penalty / masked.num_scores)
    for _ in range(arguments.steps):
        input, lengths, labels = draw(batch, length, features, generator)
        output, _ = masked(input, lengths=lengths)
        loss = nn.functional.cross_entropy(linear(last(output, lengths)), labels)
        scores.zero_grad()
        loss.backward()
        scores.step()

    # What is kept, as a plain torch.nn.LSTM again.
    small = masked.to_lstm()
    with torch.no_grad():
        input, lengths, labels = draw(2000, length, features, generator)
        right = [linear(last(model(input)[0], lengths)).argmax(1) == labels for model in (lstm, small)]
    of_all, of_kept = (part.float().mean().item() for part in right)
    kept = sum(int((score > 0).sum()) for score in masked.scores()) / masked.num_scores
    print(f"kept {100 * kept:.1f} % of {masked.num_scores} weights: accuracy {of_kept:.3f} (all: {of_all:.3f})")
    return kept, of_kept


if __name__ == "__main__":
    main()
