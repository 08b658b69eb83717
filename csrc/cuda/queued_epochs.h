// Epochs of several modules at the same time: their steps go into the same launches, their plans are made by several
// threads of the host, and the host waits once for all of them.
#pragma once

#include <memory>
#include <vector>

#include "host/drawn_documents.h"
#include "host/seam_trainer.h"
#include "kernels.h"

namespace seam::gpu {

// An epoch of one trainer, as SeamTrainer::run takes it.
struct EpochRequest {
  std::shared_ptr<DrawnDocuments> documents;
  std::vector<uint64_t> keys;
  double lr_mask, lr_head;
  int64_t batch;
  bool head_only;
  EvaluationDocuments evaluation_documents;
};

// A trainer whose epoch can be taken in parts, in this order: begin; plan and put for each launch, of which there are none where
// the head alone is stepped, and prepare_head for that; end; and when the host has waited, take.
class StagedTrainer {
 public:
  virtual ~StagedTrainer() = default;
  virtual void begin_staged(const EpochRequest& epoch, const DrawnDocuments::Epoch& drawn) = 0;
  virtual size_t launches() const = 0;
  virtual void plan_launch(size_t launch) = 0;  // by the host alone: any thread may do it
  virtual TrainParams prepare_launch(const Device& device, size_t launch) = 0;  // without blocks: other kernels have been started already
  virtual TrainHeadParams prepare_head() = 0;  // without documents: there is nothing to be done
  virtual void end_staged(const EpochRequest& epoch) = 0;
  virtual SeamEpoch finish_staged(const EpochRequest& epoch) = 0;
  virtual Tensor device_tensor() const = 0;  // on the device
};

// Epochs on their way, in the stream that was the current one when they were queued. Trainers stand still until they are taken.
class QueuedEpochs {
 public:
  // Of trainers of one base on one device. threads: of the host, at most.
  QueuedEpochs(std::vector<std::shared_ptr<SeamTrainer>> trainers, std::vector<EpochRequest> epochs, int64_t threads);
  std::vector<SeamEpoch> take();  // waits; once

 private:
  std::vector<std::shared_ptr<SeamTrainer>> trainers_;
  std::vector<StagedTrainer*> parts_;
  std::vector<EpochRequest> epochs_;
  std::vector<DrawnDocuments::Epoch> drawn_;
  Device device_ = {};
};

}  // namespace seam::gpu
