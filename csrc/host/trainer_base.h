// What the engine's trainers have in common on every device: their tensors and the checks of their arguments.
#pragma once

#include <mutex>
#include <utility>

#include "common/score_state.h"
#include "seam_trainer.h"

namespace seam {

enum Weight { kEmbedding, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kLinear, kLinearBias, kWeights };

constexpr int64_t kMostSteps = int64_t{1} << 28;  // of an epoch; there is a table of their constants
constexpr int64_t kMostStepsInAll = int64_t{1} << 31;

struct TrainerKind {
  c10::DeviceType device;
  bool takes_double;
};

// Raises what is wrong with the weights of a classifier of one layer in one direction; returns their shapes.
std::vector<std::vector<int64_t>> check_classifier(const std::vector<Tensor>& weights, const TrainerKind& kind);

// Raises what is wrong with a trainer's tensors or options.
void check_trainer(const SeamTrainerTensors& t, const SeamTrainerOptions& options, const TrainerKind& kind);

template <typename T>
ScoreState<T> score_state(const Tensor& score, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  return {score.mutable_data_ptr<T>(), exp_avg.mutable_data_ptr<T>(), exp_avg_sq.mutable_data_ptr<T>()};
}

class TrainerBase : public SeamTrainer {
 public:
  TrainerBase(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

  static void check_range(int64_t begin, int64_t end, int64_t N, int64_t batch);
  // t: (N, T) of that type, on the CPU; end: kAll for all documents.
  static constexpr int64_t kAll = -1;
  static void check_documents(const Tensor& t, at::ScalarType type, const char* name, const Tensor& lengths,
                              int64_t begin, int64_t end, int64_t batch);
  static void check_words(const Tensor& ids, int64_t V);  // all ids are in [0, V)

  // Adds class logits, which are on the CPU, and the head's outputs for them to an evaluation that has the head
  // already.
  static void add_logits(SeamEvaluation& evaluation, const Tensor& logits);

 protected:
  // Held during each call. Raises where another thread is in one, or where a tensor's memory has moved since
  // construction.
  class ExclusiveUse {
   public:
    explicit ExclusiveUse(TrainerBase& trainer);

   private:
    std::unique_lock<std::mutex> lock_;
  };

  void check_epoch(double lr_mask, double lr_head, int64_t now, int64_t steps) const;
  void check_steps_left(int64_t wanted, int64_t left) const;
  void check_loaded_steps(int64_t steps, int64_t head_steps) const;
  void check_score_rows(const Tensor& score_rows, int64_t begin, int64_t end, int64_t most) const;
  void check_evaluation_documents(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths,
                                  int64_t rows) const;
  void check_features(const Tensor& features) const;  // (N, C), of the device and dtype of the trainer's tensors
  void check_target_probability(const Tensor& target_probability, int64_t N) const;  // (N,), on the CPU

  SeamTrainerTensors tensors_;
  SeamTrainerOptions options_;
  int64_t E_, H_, C_;

 private:
  template <class Body>
  void for_each_tensor(Body&& body) const {
    for (const auto* list : {&tensors_.weights, &tensors_.scores, &tensors_.exp_avg, &tensors_.exp_avg_sq,
                             &tensors_.head, &tensors_.head_joint_moments, &tensors_.head_only_moments}) {
      for (const Tensor& t : *list) body(t);
    }
  }

  std::vector<std::pair<const void*, int64_t>> memory_;  // address and number of elements of each tensor
  std::mutex in_use_;
};

}  // namespace seam
