#include "queued_epochs.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <system_error>
#include <thread>
#include <utility>

#include "masked_lstm_cuda.h"

namespace seam::gpu {

namespace {

// Calls body(i) for each i below count, on at most `threads` threads, one of them the calling one. Rethrows an error of
// body.
template <class Body>
void on_threads(int64_t threads, size_t count, const Body& body) {
  std::atomic<size_t> next = 0;
  std::vector<std::exception_ptr> errors(count);
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) {
      try {
        body(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  for (int64_t k = 1; k < std::min<int64_t>(threads, int64_t(count)); ++k) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads can be made: the others do all the work
      break;
    }
  }
  work();
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace

QueuedEpochs::QueuedEpochs(std::vector<std::shared_ptr<SeamTrainer>> trainers, std::vector<EpochRequest> epochs,
                           int64_t threads)
    : trainers_(std::move(trainers)), epochs_(std::move(epochs)) {
  TORCH_CHECK_VALUE(!trainers_.empty() && trainers_.size() == epochs_.size(),
                    "there must be a trainer at least, and as many epochs as trainers");
  for (const auto& trainer : trainers_) {
    auto* const staged = dynamic_cast<StagedTrainer*>(trainer.get());
    TORCH_CHECK_VALUE(staged, "epochs are taken together by trainers of a GPU alone");
    TORCH_CHECK_VALUE(std::find(staged_.begin(), staged_.end(), staged) == staged_.end(),
                      "a trainer has one epoch at a time");
    TORCH_CHECK_VALUE(staged_.empty() || staged->device_tensor().device() == staged_[0]->device_tensor().device(),
                      "epochs are taken together by trainers on one GPU");
    staged_.push_back(staged);
  }
  const Tensor there = staged_[0]->device_tensor();
  const c10::DeviceGuard guard(there.device());
  device_ = gpu::device_of(there);
  drawn_.resize(staged_.size());
  on_threads(threads, staged_.size(), [&](size_t i) { drawn_[i] = epochs_[i].documents->draw(epochs_[i].keys); });
  for (size_t i = 0; i < staged_.size(); ++i) {
    const DrawnDocuments& documents = *epochs_[i].documents;
    if (!documents.needs_base_logits()) continue;
    drawn_[i].target_probability =
        documents.soft_target_probability(drawn_[i], trainers_[i]->base_logits(drawn_[i].ids, drawn_[i].lengths));
  }
  size_t launches = 0;
  std::vector<TrainHeadParams> heads;
  for (size_t i = 0; i < staged_.size(); ++i) {
    staged_[i]->begin_staged(epochs_[i], drawn_[i]);
    launches = std::max(launches, staged_[i]->launches());
    if (const TrainHeadParams p = staged_[i]->prepare_head(); p.documents) heads.push_back(p);
  }
  train_head(device_, heads.data(), int64_t(heads.size()));
  for (size_t launch = 0; launch < launches; ++launch) {
    std::vector<StagedTrainer*> running;
    for (StagedTrainer* const part : staged_) {
      if (launch < part->launches()) running.push_back(part);
    }
    // While the device takes the steps of the previous launch.
    on_threads(threads, running.size(), [&](size_t i) { running[i]->plan_launch(launch); });
    std::map<int, std::vector<TrainParams>> modules;  // by the number of blocks of a cluster
    for (StagedTrainer* const part : running) {
      const TrainParams p = part->prepare_launch(device_, launch);
      if (p.layout.blocks) modules[p.layout.blocks].push_back(p);
    }
    for (const auto& [blocks, params] : modules) train_gate_rows(device_, params.data(), int64_t(params.size()));
  }
  for (size_t i = 0; i < staged_.size(); ++i) staged_[i]->end_staged(epochs_[i]);
}

std::vector<SeamEpoch> QueuedEpochs::take() {
  TORCH_CHECK_VALUE(!staged_.empty(), "these epochs have been taken already");
  const c10::DeviceGuard guard(staged_[0]->device_tensor().device());
  wait_for(device_);
  std::vector<SeamEpoch> found;
  std::exception_ptr error;  // the first one: all are finished, so that none is left with the state of this epoch
  const std::vector<StagedTrainer*> parts = std::exchange(staged_, {});
  for (size_t i = 0; i < parts.size(); ++i) {
    try {
      found.push_back(parts[i]->finish_staged(epochs_[i]));
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  return found;
}

}  // namespace seam::gpu
