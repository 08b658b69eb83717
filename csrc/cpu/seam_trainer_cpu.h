// The training engine on the CPU: as in host/seam_trainer.h, for tensors of float32 or float64 there.
#pragma once

#include "host/seam_trainer.h"

namespace seam::cpu {

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

}  // namespace seam::cpu
