// Epochs of several modules at the same time: their steps share launches, their plans are made by several host threads,
// and the host synchronises once for all of them.
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

// A trainer whose epoch runs in stages, in this order: begin_staged; plan_launch and prepare_launch for each launch, of
// which there are none if only the head is trained, and prepare_head for that; end_staged; and, after synchronisation,
// finish_staged.
class StagedTrainer {
 public:
  virtual ~StagedTrainer() = default;
  virtual void begin_staged(const EpochRequest& epoch, const DrawnDocuments::Epoch& drawn) = 0;
  virtual size_t launches() const = 0;
  virtual void plan_launch(size_t launch) = 0;  // on the host alone, so any thread may call it
  virtual TrainParams prepare_launch(const Device& device,
                                     size_t launch) = 0;  // without blocks if it has started other kernels itself
  virtual TrainHeadParams prepare_head() = 0;             // without documents: there is nothing to do
  virtual void end_staged(const EpochRequest& epoch) = 0;
  virtual SeamEpoch finish_staged(const EpochRequest& epoch) = 0;
  virtual Tensor device_tensor() const = 0;  // some tensor on its device
};

// Epochs that run in the stream that was current when they were queued. Their trainers may not be used until `take`.
class QueuedEpochs {
 public:
  // The trainers are of one base on one device. threads: the most host threads to use.
  QueuedEpochs(std::vector<std::shared_ptr<SeamTrainer>> trainers, std::vector<EpochRequest> epochs, int64_t threads);
  std::vector<SeamEpoch> take();  // synchronises; may be called once

 private:
  std::vector<std::shared_ptr<SeamTrainer>> trainers_;
  std::vector<StagedTrainer*> staged_;
  std::vector<EpochRequest> epochs_;
  std::vector<DrawnDocuments::Epoch> drawn_;
  Device device_ = {};
};

}  // namespace seam::gpu
