// The end of a module: linear layer, ReLU, head with two outputs, cross entropy, and their gradients.
#pragma once

#include "scores.cuh"

namespace seam::gpu {

// The sum over a warp, the same in every lane.
template <class B>
SEAM_KERNEL float sum_warp(const B& block, float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += block.shuffle_xor(value, mask);
  return value;
}

// A warp computes a document's loss from its logits (value(c) for class c). head(i): number i of the head's 2 C weights
// and 2 biases. Returns the loss, not yet divided, and the gradients of both outputs; stores what the gradients of the
// head's parameters need.
struct HeadResult {
  float loss, d_target, d_rest;
};
template <class B, class Value, class Head>
SEAM_KERNEL HeadResult head_of(const B& block, const HeadParams& p, int document, float target_probability, float total,
                               const Value& value, const Head& head) {
  const int32_t C = p.classes;
  float a = 0, b = 0;
#pragma unroll 1
  for (int32_t c = block.lane(); c < C; c += 32) {
    const float logit = value(c), positive = logit > 0 ? logit : logit <= 0 ? 0.0f : logit;  // a NaN passes
    store(p.positive + int64_t(document) * C + c, positive);
    a = fmaf(positive, head(c), a);
    b = fmaf(positive, head(C + c), b);
  }
  a = sum_warp(block, a) + head(2 * C);
  b = sum_warp(block, b) + head(2 * C + 1);
  const float target = target_probability * p.target_weight, rest = 1.0f - target_probability;
  // log(1 + exp(x)) of both differences, and 1 minus each output's softmax, without cancellation.
  const float difference = b - a, small = log1pf(expf(-fabsf(difference)));
  const float log_a = (difference > 0 ? difference : difference <= 0 ? 0.0f : difference) + small;
  const float log_b = (difference < 0 ? -difference : difference >= 0 ? 0.0f : difference) + small;
  const float prob_a = 1.0f / (1.0f + expf(difference)), prob_b = 1.0f / (1.0f + expf(-difference));
  HeadResult result;
  result.loss = target * log_a + rest * log_b;
  result.d_target = (rest * prob_a - target * prob_b) / total;
  result.d_rest = (target * prob_b - rest * prob_a) / total;
  if (block.lane() == 0) {
    store(p.d_outputs + 2 * int64_t(document), result.d_target);
    store(p.d_outputs + 2 * int64_t(document) + 1, result.d_rest);
    store(p.losses + document, result.loss);
  }
  return result;
}

// Number i of the head's 2 C weights and 2 biases, from memory.
SEAM_KERNEL float head_number(const HeadParams& p, int32_t i) {
  return i < 2 * p.classes ? load(p.weight.score + i) : load(p.bias.score + i - 2 * p.classes);
}

// The gradient of class c's logit, whose value after ReLU is `positive`.
template <class Head>
SEAM_KERNEL float d_logit(const HeadParams& p, const HeadResult& result, int32_t c, float positive, const Head& head) {
  if (!(positive > 0)) return 0.0f;
  return fmaf(result.d_rest, head(p.classes + c), result.d_target * head(c));
}

// The mean loss of a batch. One thread.
SEAM_KERNEL float mean_loss(const HeadParams& p, int documents, float total) {
  double loss = 0;
#pragma unroll 8
  for (int b = 0; b < documents; ++b) loss += double(load(p.losses + b));
  return float(loss / double(total));
}

// Parameter i of the head's 2 C weights and 2 biases: its gradient over a batch and, if `steps`, its step. Returns the
// gradient.
SEAM_KERNEL float step_head(const HeadParams& p, int documents, int32_t i, bool steps, const AdamStep<float>& step) {
  const int32_t C = p.classes, output = i < 2 * C ? i / C : i - 2 * C;
  float sum = 0;
#pragma unroll 8
  for (int b = 0; b < documents; ++b) {
    const float d = load(p.d_outputs + 2 * int64_t(b) + output);
    sum = i < 2 * C ? fmaf(d, load(p.positive + int64_t(b) * C + i % C), sum) : sum + d;
  }
  if (steps) step_parameter(p.rule, step, i < 2 * C ? p.weight : p.bias, i < 2 * C ? i : i - 2 * C, sum);
  return sum;
}

// ---- The end of a step with scores ----------------------------------------------------------------------------------

SEAM_KERNEL uint32_t flag(int what, float sum) { return is_finite(sum) ? 0u : 1u << what; }

// The step of the linear layer: one thread per parameter, this one thread `number` of `numbers`. In `bad`, bit k is set
// if what SeamFailure calls k is not finite.
SEAM_KERNEL void step_linear(const TrainParams& p, const PlanStep& plan, const AdamStep<float>& step, int number,
                             int numbers, uint32_t& bad) {
  const int B = plan.documents, H = p.H, C = p.head.classes, weights = C * H;
#pragma unroll 1
  for (int i = number; i < weights + C; i += numbers) {
    const bool is_weight = i < weights;
    const int c = is_weight ? i / H : i - weights, k = is_weight ? i - c * H : 0;
    float sum = 0;
#pragma unroll 4
    for (int b = 0; b < B; ++b) {
      const float d = load(p.d_logits + b * C + c), h = is_weight ? load(p.h_n + b * H + k) : 1.0f;
      sum = fmaf(d, h, sum);
    }
    bad |= flag(is_weight ? 6 : 7, sum);
    step_score(is_weight ? p.linear : p.linear_bias, step, is_weight ? i : c, sum);
  }
}
// The step of the head, and the loss of step s, which the last thread forms.
SEAM_KERNEL void step_head_of(const TrainParams& p, const PlanStep& plan, int s, int number, int numbers,
                              uint32_t& bad) {
  const int C = p.head.classes;
  const AdamStep<float> step = load(p.head_step + (p.now - p.rows.first + s));
#pragma unroll 1
  for (int i = number; i < 2 * C + 2; i += numbers) {
    bad |= flag(i < 2 * C ? 8 : 9, step_head(p.head, plan.documents, i, p.train_head, step));
  }
  if (number == numbers - 1) store(p.losses + s, mean_loss(p.head, plan.documents, plan.total));
}

// The number of the first thing that is not finite, over the bits `bad` of all `numbers` threads of the cluster.
template <class B>
SEAM_KERNEL int32_t reason(const B& block, const TrainParams& p, uint32_t bad, int number, int numbers) {
  store(p.reasons + number, int32_t(bad));
  block.sync_cluster();
  uint32_t all = 0;
  for (int i = 0; i < numbers; ++i) all |= uint32_t(load(p.reasons + i));
  int32_t what = 0;
  while (what < 31 && !(all >> what & 1u)) ++what;
  return what;
}

// ---- Steps of the head alone ----------------------------------------------------------------------------------------

// The masked base does not change meanwhile, so its logits are the features: one block takes all steps of an epoch.
struct TrainHead {
  static constexpr bool kBatched = true;  // of several modules, see block.cuh
  static constexpr int kThreads = 256, kCluster = 1, kWarps = kThreads / 32;
  using Params = TrainHeadParams;
  struct Smem {};

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const HeadParams& head = p.head;
    const int steps = (p.documents + p.batch - 1) / p.batch;
    Outcome outcome = {0, -1, 0.0f};
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      const int first = s * p.batch, left = p.documents - first, B = left < p.batch ? left : p.batch;
      float total = float(B);
      if (head.target_weight != 1.0f) {
        total = 0;
        for (int b = 0; b < B; ++b) {
          const float probability = load(p.target_probability + first + b);
          total += probability * head.target_weight + (1.0f - probability);
        }
      }
#pragma unroll 1
      for (int b = block.warp(); b < B; b += kWarps) {
        const float* const features = p.features + int64_t(first + b) * head.classes;
        head_of(
            block, head, b, load(p.target_probability + first + b), total,
            [&](int32_t c) { return load(features + c); }, [&](int32_t i) { return head_number(head, i); });
      }
      block.sync();
      // Checks before any update that everything is finite: else it shows in the loss or in a gradient of the head.
      const float loss = mean_loss(head, B, total);  // in every thread, which is as quick as waiting for one
      int what = is_finite(loss) ? -1 : 0;
      bool bad = false;
      for (int32_t i = block.thread(); i < 2 * head.classes + 2; i += kThreads) {
        bad |= !is_finite(step_head(head, B, i, false, {}));
      }
      if (block.lane() == 0) store(p.bad + block.warp(), 0);
      bad = block.any(bad);
      if (bad && block.lane() == 0) store(p.bad + block.warp(), 1);
      block.sync();
      if (what < 0 && block.any(block.lane() < kWarps && load(p.bad + block.lane() % kWarps) != 0)) what = 8;
      if (what >= 0) {
        outcome.what = what, outcome.loss = loss;
        break;
      }
      const AdamStep<float> step = load(p.step + s);
      for (int32_t i = block.thread(); i < 2 * head.classes + 2; i += kThreads) step_head(head, B, i, true, step);
      if (block.thread() == 0) store(p.losses + s, loss);
      outcome.steps = s + 1;
      block.sync();
    }
    if (block.thread() == 0) store(p.outcome, outcome);
  }
};

}  // namespace seam::gpu
