"""SEAM worked out beside the package: `torch.nn.LSTM` for the gradient of the loss, NumPy for everything else."""

import numpy as np
import torch
from torch import nn

from .toy_weights import EMBEDDING, KEYS, LINEAR, LSTM


def hand_logits(weights, ids, lengths, readout):
    """Class logits (B, C) of weights used as they are, by torch.nn.LSTM; differentiable."""
    table = weights[EMBEDDING]
    network = nn.LSTM(table.shape[1], weights[LSTM[1]].shape[1]).to(table.dtype)
    named = {key.removeprefix("lstm."): weights[key] for key in LSTM}
    states = torch.func.functional_call(network, named, (table[ids.T],))[0]
    state = (
        states[-1]
        if readout == "last_position"
        else torch.stack([states[n - 1, b] for b, n in enumerate(lengths.tolist())])
    )
    return state @ weights[LINEAR[0]].T + weights[LINEAR[1]]


def deep_logits(weights, ids, lengths, readout, num_layers, bidirectional):
    """Class logits (B, C) by torch.nn.LSTM, one document at a time, so that there is no padding to be seen."""
    table = weights[EMBEDDING]
    network = nn.LSTM(table.shape[1], weights[LSTM[1]].shape[1], num_layers, bidirectional=bidirectional)
    named = {key.removeprefix("lstm."): weights[key] for key in weights if key.startswith("lstm.")}
    states = []
    for document, length in zip(ids, lengths.tolist(), strict=True):
        words = document[:length] if readout == "last_word" else document
        states.append(torch.func.functional_call(network.to(table.dtype), named, (table[words],))[0][-1])
    return torch.stack(states) @ weights[LINEAR[0]].T + weights[LINEAR[1]]


class HandAdam:
    """Adam as published (betas .9 and .999, eps 1e-8), in NumPy, with a state of its own."""

    def __init__(self):
        self.state = {}

    def step(self, name, value, gradient, lr):
        m, v, t = self.state.get(name, (np.zeros_like(value), np.zeros_like(value), 0))
        m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
        self.state[name] = m, v, t
        return value - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


class HandSeam:
    """One module in float64, its gradients clamped and added and its Adams stepped as SeaM has it."""

    def __init__(
        self,
        weights,
        head,
        *,
        alpha,
        lr_mask,
        lr_head,
        schedule="seam",
        penalty="global",
        readout="last_position",
        lstm_penalty_scale=1.0,
        linear_penalty_scale=1.0,
    ):
        self.factors = {LSTM: lstm_penalty_scale, LINEAR: linear_penalty_scale}
        self.weights = {key: weights[key].double() for key in KEYS}
        self.scores = {key: np.ones(tuple(weight.shape)) for key, weight in self.weights.items()}
        self.head = [part.double().numpy().copy() for part in head]
        self.alpha, self.lr_mask, self.lr_head = alpha, lr_mask, lr_head
        self.schedule, self.penalty, self.readout = schedule, penalty, readout
        self.head_adam, self.joint_adam = HandAdam(), HandAdam()
        self.loss_path = {}  # of the last step: gradient of the loss before its clamp

    def penalty_gradient(self, key):
        if self.penalty == "group":
            group = next(group for group in ((EMBEDDING,), LSTM, LINEAR) if key in group)
        else:
            group = KEYS
        factor = self.factors.get(group, 1)
        return np.clip(factor * self.alpha / sum(self.scores[k].size for k in group), -1, 1)

    def step(self, ids, lengths, target_probability, head_only=False):
        kept = {key: torch.from_numpy((score > 0).astype(float)) for key, score in self.scores.items()}
        leaves = {key: (self.weights[key] * kept[key]).requires_grad_() for key in KEYS}
        head = [torch.from_numpy(part.copy()).requires_grad_() for part in self.head]
        logits = torch.relu(hand_logits(leaves, ids, lengths, self.readout)) @ head[0].T + head[1]  # slope at 0: 0
        both = torch.stack([target_probability, 1 - target_probability], 1)  # output 0 is the target's
        loss = -(torch.log_softmax(logits, 1) * both).sum(1).mean()
        loss.backward()
        if head_only:
            for i in range(2):
                self.head[i] = self.head_adam.step(i, self.head[i], head[i].grad.numpy(), self.lr_head)
            return loss.item()
        for key in KEYS:
            self.loss_path[key] = leaves[key].grad.numpy() * self.weights[key].numpy()
            gradient = np.clip(self.loss_path[key], -1, 1) + self.penalty_gradient(key)
            self.scores[key] = self.joint_adam.step(key, self.scores[key], gradient, self.lr_mask)
        if self.schedule != "port":
            for i in range(2):
                self.head[i] = self.joint_adam.step(i, self.head[i], head[i].grad.numpy(), self.lr_head)
        return loss.item()


def choose(rule, history) -> int:
    """Index of the epoch that a rule keeps after a whole history; -1 for an empty one."""
    best = -1
    for epoch, figures in enumerate(history):
        if rule.offer(figures):
            best = epoch
        if rule.stop:
            break
    return best
