// The training engine on a GPU: as in host/seam_trainer.h, for float32 tensors there. The documents that `train` and
// `train_head` are given are on the CPU, but for `features`, which stay on the GPU, as do the class logits.
#pragma once

#include <string>

#include "host/seam_trainer.h"

namespace seam::gpu {

// The largest base that it can train on.
constexpr int64_t kMostHiddenUnits = 128;

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

// How many modules over a base whose tensors are like `like` the device can train at the same time; 0 if it cannot.
int64_t modules_at_once(const Tensor& like, int64_t hidden, int64_t batch);

// Which kernels take the steps, for tests and measurements: "cluster" or "wide" (the whole GPU), or "automatic", by the
// amount of work.
void choose_steps(const std::string& steps);

}  // namespace seam::gpu
