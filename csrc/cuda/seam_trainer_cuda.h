// The training engine on a GPU: as in ../seam_trainer.h, for float32 tensors there. What `train` and `train_head` are
// told of documents is on the CPU, but for `features`, which stay on the GPU, as do the class logits.
#pragma once

#include <string>

#include "host/seam_trainer.h"

namespace seam::gpu {

// Largest sizes of a base that it takes.
constexpr int64_t kMostHiddenUnits = 128;

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

// How many modules over a base whose tensors are like `like` the device can train at the same time; 0 where it cannot.
int64_t modules_at_once(const Tensor& like, int64_t hidden, int64_t batch);

// Who takes steps, for tests and measurements: "cluster" or "wide", or "automatic", by what there is to do.
void choose_steps(const std::string& steps);

}  // namespace seam::gpu
